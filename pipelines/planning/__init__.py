"""Plan a run from the configurations of a model: tokens, FLOPs, memory and time, without its weights.

Nothing here loads weights or samples a clip.
"""
