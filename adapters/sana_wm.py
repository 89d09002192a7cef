"""SANA-WM: linear and softmax self-attention outside of processors, masked text by softmax cross-attention."""

from typing import Any

import torch

from vidguide.transformer.family import Family, Inputs


def encode(pipe: Any, prompts: list[str], inputs: Inputs) -> Inputs:
    """Without the instruction that goes before a prompt: the pipeline gives its own negatives none either."""
    embeds, mask = inputs["encoder_hidden_states"], inputs["mask"]
    ready = {"prompt_embeds": embeds, "prompt_attention_mask": mask, "max_sequence_length": embeds.shape[-2]}
    texts = [pipe.encode_prompt("", prompt, **ready)[2:] for prompt in prompts]
    return {
        name: torch.cat(parts)
        for name, parts in zip(("encoder_hidden_states", "mask"), zip(*texts, strict=True), strict=True)
    }


def refuse_other_mask(transformer: Any, inputs: Inputs, small: Inputs) -> Inputs:
    """Its forward has two names for the text's mask, of which its pipeline uses the shorter."""
    if inputs.get("mask") is None:
        raise ValueError("encoder_attention_mask: pass it as mask, as SANA-WM's pipeline does")
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
        cuts={"camera_conditions": "BF", "chunk_plucker": "BCFHW", "frame_valid_mask": "BCFLL"},
        instead={"pos_embeds": None, "cam_pos_embeds": None, "raymats": None},
        adjust=refuse_other_mask,
        block_output=("x",),
        cfg="batched",
        since="0.42",
    ),
)
