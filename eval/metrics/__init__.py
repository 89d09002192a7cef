"""The metrics: one function each from a sample to a value, with version, range, guards and known failure modes.

Statistics over clips belong to `scoring`.
"""
