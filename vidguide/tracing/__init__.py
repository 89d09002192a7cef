"""The current step of a sampling run, and the trace of what guidances did in it.

Traces are plain data; measuring belongs to the edits.
"""
