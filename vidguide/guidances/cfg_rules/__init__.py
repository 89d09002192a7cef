"""Classifier-free guidance and its variants: rules that combine a conditional and an unconditional prediction.

Guidances that act in attention or run a perturbed pass belong to `guidances` itself.
"""
