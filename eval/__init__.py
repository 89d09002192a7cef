"""Measure clips: what they show, how steady they are, how well they follow their texts. Independent of diffusion."""
