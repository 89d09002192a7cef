"""The metrics: one function each from a sample to a value, with version, range, guards and what fools it.

Statistics over clips belong to `scoring`.
"""
