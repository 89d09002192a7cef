"""The command line: options, commands and what they print.

What a command does is implemented outside, and can be called from Python.
"""
