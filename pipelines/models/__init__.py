"""Declarations of models: weights, scheduler, clip size and guidance parameters, each with its source.

Data only. Code that loads a model belongs in `loading`.
"""
