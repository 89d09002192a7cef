"""Wan 2.1 and 2.2: full 3D self-attention, text by cross-attention, padded with zero embeddings and not masked."""

from typing import Any

from vidguide.family import Family, Inputs


def encode(pipe: Any, prompts: list[str], inputs: Inputs) -> Inputs:
    """Pads to the length the pipeline's call used (512), which is not encode_prompt's own default (226)."""
    length = inputs["encoder_hidden_states"].shape[1]
    embeds, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=length)
    return {"encoder_hidden_states": embeds}


def one_token(transformer: Any, inputs: Inputs) -> Inputs:
    """A single patch of the latents; the text's keys and values depend on neither it nor the timestep."""
    frames, height, width = transformer.config.patch_size
    batch = inputs["encoder_hidden_states"].shape[0]
    timestep = inputs["timestep"][:1]
    small = {
        "hidden_states": inputs["hidden_states"][:1, :, :frames, :height, :width].expand(batch, -1, -1, -1, -1),
        "timestep": (timestep[:, :1] if timestep.ndim == 2 else timestep).expand(batch, *[-1] * (timestep.ndim - 1)),
    }
    image = inputs.get("encoder_hidden_states_image")
    if image is not None:
        small["encoder_hidden_states_image"] = image[:1].expand(batch, -1, -1)
    return {**inputs, **small}


def grid(transformer: Any, inputs: Inputs) -> tuple[int, int, int]:
    """Latents `(B, C, F, H, W)` over the patch size."""
    sizes = inputs["hidden_states"].shape[2:]
    frames, height, width = (size // patch for size, patch in zip(sizes, transformer.config.patch_size, strict=True))
    return frames, height, width


FAMILIES = (Family(name="Wan", transformers=("WanTransformer3DModel",), encode=encode, one_token=one_token, grid=grid),)
