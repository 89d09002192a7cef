"""SANA-WM: linear and softmax self-attention outside of processors, and softmax cross-attention to masked text."""

from typing import Any

import torch

from vidguide.transformer.family import Family, Inputs, Prompt
from vidguide.transformer.negative_text import texts_of


def encode(pipe: Any, prompt: Prompt, inputs: Inputs) -> Inputs:
    """Encode negative prompts without the instruction that precedes a prompt, as the pipeline does."""
    embeds, mask = inputs["encoder_hidden_states"], inputs["mask"]
    settings = {"prompt_embeds": embeds, "prompt_attention_mask": mask, "max_sequence_length": embeds.shape[-2]}
    negative = {f"negative_{name}": value for name, value in prompt.items() if name != "prompt"}
    texts = [pipe.encode_prompt("", text, **negative, **settings)[2:] for text in texts_of(prompt) or [""]]
    return {
        name: torch.cat(parts)
        for name, parts in zip(("encoder_hidden_states", "mask"), zip(*texts, strict=True), strict=True)
    }


def check_mask_name(transformer: Any, inputs: Inputs, small: Inputs) -> Inputs:
    """Return `small`, after a check that the text mask is `mask`, the pipeline's choice of the two names in forward."""
    if inputs.get("mask") is None:
        raise ValueError("encoder_attention_mask: must be passed as mask, as SANA-WM's pipeline does")
    return small


FAMILIES = (
    Family(
        name="SANA-WM",
        transformers=("SanaWMTransformer3DModel",),
        self_attention="attn",
        text_attention=("cross_attn",),
        self_softmax=False,
        encode=encode,
        text_inputs=("encoder_hidden_states", "mask"),
        text_masks={"mask": "encoder_hidden_states"},
        grid_axes={"camera_conditions": "BF", "chunk_plucker": "BCFHW", "frame_valid_mask": "BCFLL"},
        one_token_inputs={"pos_embeds": None, "cam_pos_embeds": None, "raymats": None},
        adjust_one_token=check_mask_name,
        block_output=("x",),
        cfg="batched",
        min_diffusers="0.42",
    ),
)
