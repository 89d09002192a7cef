"""Faster forms of the functional equations: Triton kernels and attention backends that return the log-sum-exp.

Each has an eager equivalent in `functional`, and is chosen in `dispatch` or `lse_backends`; no guidance lives here.
"""
