"""Blocks of a modular pipeline of diffusers: its denoising loops, and the block that encodes its text."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

TEXT_ENCODER = "text_encoder"  # name of that block in every video pipeline of diffusers


class Components:
    """The components of a modular pipeline, for a run of its text encoder by itself.

    Attributes:
        requires_unconditional_embeds: true, as blocks of Wan and HunyuanVideo 1.5 in diffusers 0.42 fail otherwise.
    """

    requires_unconditional_embeds = True

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_pipe"], name)


def is_modular(pipe: Any) -> bool:
    """Return whether a pipeline is made of blocks."""
    return getattr(pipe, "_blocks", None) is not None  # `pipe.blocks` is a copy


def input_names(pipe: Any) -> set[str]:
    """Return the names of the inputs of a modular pipeline; none for others."""
    return set(inputs_of(pipe)) if is_modular(pipe) else set()


def inputs_of(pipe: Any) -> dict[str, Any]:
    """Return the declared inputs (`InputParam`) of a modular pipeline by name."""
    return {one.name: one for one in pipe._blocks.inputs if one.name}


def text_encoder_of(pipe: Any) -> Any:
    """Return the block of a modular pipeline that encodes its text; None if it has none."""
    return (getattr(pipe._blocks, "sub_blocks", None) or {}).get(TEXT_ENCODER)


def encoded_text(
    pipe: Any, names: Sequence[str], texts: list[str], length: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the text encoder of a modular pipeline, and return the values of its state.

    Args:
        names: of the blocks to run, the encoder last.
        texts: prompts. length: `max_sequence_length`, where a block has that input. given: further inputs.
    """
    blocks = [block for name in names if (block := pipe._blocks.sub_blocks.get(name)) is not None]
    state = _state_class(blocks[-1])()
    for block in reversed(blocks):
        for one in block.inputs:
            state.set(one.name, given.get(one.name, one.default))
    state.set("prompt", texts if len(texts) > 1 else texts[0])  # MiniMax-H3 takes no lists
    state.set("max_sequence_length", length)
    for block in blocks:
        _, state = block(Components(pipe), state)
    values: dict[str, Any] = state.values
    return values


def picture_inputs(pipe: Any, names: Sequence[str]) -> set[str]:
    """Return the inputs of the blocks that prepare the pictures which the text encoder reads; none of others."""
    blocks = [pipe._blocks.sub_blocks.get(name) for name in names[:-1]] if is_modular(pipe) else []
    return {one.name for block in blocks if block is not None for one in block.inputs if one.name}


def _state_class(block: Any) -> Any:
    """Return `PipelineState` of diffusers."""
    base = next(kind for kind in type(block).__mro__ if kind.__name__ == "ModularPipelineBlocks")
    return sys.modules[base.__module__].PipelineState


def is_loop(block: Any) -> bool:
    """Return whether a block is a denoising loop (`LoopSequentialPipelineBlocks` of diffusers)."""
    return hasattr(block, "loop_step")


def has_loop(pipe: Any) -> bool:
    """Return whether a pipeline is a modular one with a denoising loop."""
    return _contains_loop(getattr(pipe, "_blocks", None))


def _contains_loop(block: Any) -> bool:
    children = getattr(block, "sub_blocks", None) or {}
    return is_loop(block) or any(_contains_loop(child) for child in children.values())
