"""Tests of the whole repository; `tests.helpers` is what they share."""
