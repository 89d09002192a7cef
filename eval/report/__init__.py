"""Presentation of scores: Markdown, HTML, charts and console output.

Nothing here computes a score.
"""
