"""Load pipelines by name, generate and compare clips, and the command line.

Guidance itself belongs in the core package, measuring clips in `vidguide.eval`.
"""
