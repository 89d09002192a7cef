"""Score clips, store results, compare arms: statistics, verdicts and notes.

The measurement of a single clip belongs to `metrics`, the presentation to `report`.
"""
