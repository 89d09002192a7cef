"""The synthetic world of the shipped models: scenes, their oracle, and the dual encoder of text and video.

Metrics that use them belong to `metrics`.
"""
