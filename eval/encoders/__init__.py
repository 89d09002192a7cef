"""Networks that metrics use, loaded from weights on disk or in the Hugging Face cache.

The metrics computed with them belong to `metrics`.
"""
