"""One guided call of a transformer, as guidances see and use it.

No guidance lives here; running the call belongs to `guiding`.
"""
