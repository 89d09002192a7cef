"""Turn scores into Markdown, HTML, charts and console output.

Nothing here computes a score.
"""
