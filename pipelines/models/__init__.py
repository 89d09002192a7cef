"""Presets: which weights, scheduler, size and guidance a model is run with, each with its source.

Data only; loading it belongs to `loading`.
"""
