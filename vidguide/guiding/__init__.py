"""The public context manager `guide`, and the conductor that runs each guided call.

No method is implemented here; a new guidance needs no change in this package.
"""
