"""Metrics of pretrained networks, computed only if their weights are given.

The networks belong to `encoders`.
"""
