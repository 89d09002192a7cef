"""Load a pipeline from a folder, a Hugging Face repo id or a preset.

What a preset says is in `models`; nothing here samples a clip.
"""
