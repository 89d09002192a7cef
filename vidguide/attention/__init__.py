"""Interception of attention kernel calls, and the discovery of the attention sites of a transformer.

What a guidance does there belongs to `edits`.
"""
