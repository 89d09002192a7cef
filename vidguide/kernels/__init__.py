"""Faster implementations of `functional`: Triton kernels, and attention backends that return the log-sum-exp.

Each has an eager equivalent in `functional` and is selected in `dispatch` or `lse_backends`. No guidance belongs here.
"""
