"""SANA-WM: linear and softmax self-attention outside of processors, and softmax cross-attention to masked text; and its
refiner, LTX-2's video blocks with a key-value cache of previous frames, which is a pipeline of its own.
"""

from typing import Any

import torch

from vidguide.adapters._encode_prompt import EMBEDS_AND_MASK
from vidguide.transformer.family import Family, Inputs, Prompt
from vidguide.transformer.negative_text import check_length, texts_of


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


def encode_for_refiner(pipe: Any, prompt: Prompt, inputs: Inputs) -> Inputs:
    """Encode prompts one by one, which includes the connectors; embeddings are those after the connectors."""
    embeds = inputs["encoder_hidden_states"]
    if "prompt_embeds" in prompt:
        names = {"prompt_embeds": "encoder_hidden_states", "prompt_attention_mask": "encoder_attention_mask"}
        return {name: prompt[given] for given, name in names.items() if given in prompt}
    check_length(pipe, texts_of(prompt), pipe.text_max_sequence_length)
    texts = [pipe._encode_prompt(text, device=embeds.device, dtype=embeds.dtype) for text in texts_of(prompt)]
    return {
        name: torch.cat(parts)
        for name, parts in zip(EMBEDS_AND_MASK["text_inputs"], zip(*texts, strict=True), strict=True)
    }


def denoises_block(inputs: Inputs) -> bool:
    """Return whether a call of the refiner denoises a block of frames, and does not capture keys for later ones."""
    return inputs.get("kv_cache_mode") in (None, "inject")


def first_position(transformer: Any, inputs: Inputs, small: Inputs) -> Inputs:
    """Return inputs with the rotary embedding of one token, for each text."""
    rows = small["encoder_hidden_states"].shape[0]
    cut = (part[:1].narrow(-2, 0, 1) for part in inputs["video_rotary_emb"])
    return {**small, "video_rotary_emb": tuple(part.expand(rows, *part.shape[1:]) for part in cut)}


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
    Family(
        name="SANA-WM refiner",
        transformers=("SanaWMLTX2RefinerTransformer3DModel",),
        blocks=("transformer_blocks",),
        encode=encode_for_refiner,
        layout="BLC",
        one_token_inputs={"kv_cache": None, "kv_cache_mode": None},
        adjust_one_token=first_position,
        reads_cache=denoises_block,
        min_diffusers="0.42",
        **EMBEDS_AND_MASK,
    ),
)
