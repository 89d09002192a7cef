"""Blocks of a modular pipeline of diffusers: its denoising loops."""

from typing import Any


def is_loop(block: Any) -> bool:
    """Return whether a block is a denoising loop (`LoopSequentialPipelineBlocks` of diffusers)."""
    return hasattr(block, "loop_step")


def has_loop(pipe: Any) -> bool:
    """Return whether a pipeline is a modular one with a denoising loop."""
    return _contains_loop(getattr(pipe, "_blocks", None))  # `pipe.blocks` is a copy


def _contains_loop(block: Any) -> bool:
    children = getattr(block, "sub_blocks", None) or {}
    return is_loop(block) or any(_contains_loop(child) for child in children.values())
