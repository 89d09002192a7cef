"""Votes of people on pairs of clips: the design, the file of votes, and their rows in the results."""
