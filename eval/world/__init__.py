"""The synthetic world of the shipped models: scenes, their oracle, and a dual encoder of text and video.

The metrics that use them belong to `metrics`.
"""
