"""One guided call of a transformer: what guidances may know of it and ask of it.

No guidance lives here; running the call belongs to `guiding`.
"""
