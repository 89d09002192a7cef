"""Sweeps: many prompts and seeds in every variant (`arm` in the files), from a YAML file to one resumable report.

Generating one clip belongs in `generate`, scoring it in `vidguide.eval`.
"""
