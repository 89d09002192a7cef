"""Tuning: find guidance settings for a model, by trials of clips that are compared with those without guidance.

The clips of a trial are those of a variant of a sweep. `run` is the whole; `study` proposes settings (Optuna), `racing`
compares them, `clips` generates and scores, `recommend` chooses, `report` writes.
"""
