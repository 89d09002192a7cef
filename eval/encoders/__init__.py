"""Load networks that metrics use, from weights that the user has.

Nothing is downloaded; what is measured with them belongs to `metrics`.
"""
