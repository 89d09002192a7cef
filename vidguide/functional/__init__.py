"""Every equation of the library once, as pure functions of tensors: edits call them, kernels are checked against them.

Modules here import torch alone and have no state; models, guidances and devices belong elsewhere.
"""
