"""Interception of attention kernel calls, and the discovery of the attention sites of a transformer.

Says where a guidance can act, not what it does there: that is in `edits`.
"""
