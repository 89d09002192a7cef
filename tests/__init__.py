"""Tests of the whole repository; shared code is in `tests.helpers`."""
