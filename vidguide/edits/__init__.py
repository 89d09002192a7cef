"""What guidances do at one attention: edits, perturbations and observers of a kernel call.

Equations belong to `functional`, parameters and their validation to `guidances`.
"""
