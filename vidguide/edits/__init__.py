"""Edits, perturbations and observers of an attention kernel call.

Equations belong to `functional`, parameters and their validation to `guidances`.
"""
