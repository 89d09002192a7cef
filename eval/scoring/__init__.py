"""Score clips, keep results, compare variants: statistics, verdicts and notes.

A single clip's measurement belongs to `metrics`, its presentation to `report`.
"""
