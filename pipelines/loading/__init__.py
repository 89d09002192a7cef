"""Load a pipeline from a shipped name, a preset, a local folder or a Hugging Face repo id.

Declarations of models belong in `models`. Nothing here samples a clip.
"""
