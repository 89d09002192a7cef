"""Command line: options, commands and their output.

What a command does is implemented elsewhere and can be called from Python.
"""
