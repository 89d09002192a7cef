"""Measure clips: what they show, how steady they are, how well they follow their text. Knows nothing of diffusion."""
