"""Few-step presets of LTX-Video and LTX-2.

Upstream samples in two passes, the second of which upscales. The presets run the first pass only, at its size.
"""

from typing import Any

from vidguide.pipelines.models.sources import DIFFUSERS, LIGHTRICKS, NAG_NODE, NAG_NODES
from vidguide.pipelines.models.spec import Checkpoint, Model

# Use the noise levels unchanged: disable every shift in the checkpoint's scheduler config.
UNSHIFTED = {"shift": 1.0, "use_dynamic_shifting": False, "shift_terminal": None}
SHARED: dict[str, Any] = dict(
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings=UNSHIFTED,
    guidance_scale=1.0,
    distilled=True,
    image="may",
    tiling=True,
    nag=NAG_NODE,
)
LTX: dict[str, Any] = dict(
    **SHARED,
    pipeline="LTXConditionPipeline",
    height=512,
    width=704,
    frames=161,
    fps=25,
    call={"decode_timestep": 0.05, "decode_noise_scale": 0.025, "image_cond_noise_scale": 0.0},
)
# First pass of Lightricks' config.
LTX_TIMESTEPS = (1000.0, 993.7, 987.5, 981.2, 975.0, 909.4, 725.0)
LTX_098: dict[str, Any] = {**LTX, "steps": 7, "timesteps": LTX_TIMESTEPS}
LTX2: dict[str, Any] = dict(
    **SHARED,
    pipeline="LTX2Pipeline",
    steps=8,
    sigmas=(1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875),
    height=512,
    width=768,
    frames=121,
    fps=24,
    call={"audio_guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
    | {
        "audio_stg_scale": 0.0,
        "audio_modality_scale": 1.0,
    },  # on by default, intended for the model before distillation
    cites=(f"{DIFFUSERS}/ltx2", "https://github.com/Lightricks/LTX-2/blob/main/packages/ltx-pipelines", NAG_NODES),
)


def single_file(file: str) -> Checkpoint:
    """Return the declaration of a file that holds both the transformer and the VAE."""
    return Checkpoint(source="Lightricks/LTX-Video", file=file, components=("transformer", "vae"))


LTX_VIDEO = {
    "ltx-0.9.6-2b-distilled": Model(
        source="Lightricks/LTX-Video-0.9.5",
        checkpoint=single_file("ltxv-2b-0.9.6-distilled-04-25.safetensors"),
        **{**LTX, "scheduler_settings": {**UNSHIFTED, "stochastic_sampling": True}},
        steps=8,
        cites=(f"{LIGHTRICKS}/ltxv-2b-0.9.6-distilled.yaml", f"{DIFFUSERS}/ltx_video", NAG_NODES),
        about="LTX-Video 0.9.6 2B distilled, from its single file",
    ),
    "ltx-0.9.7-13b-distilled": Model(
        source="Lightricks/LTX-Video-0.9.7-distilled",
        **LTX,
        steps=8,
        timesteps=(1000.0, 993.0, 987.0, 981.0, 975.0, 909.0, 725.0, 0.03),
        cites=(f"{DIFFUSERS}/ltx_video", NAG_NODES),
        about="LTX-Video 0.9.7 13B distilled; first pass",
    ),
    "ltx-0.9.8-2b-distilled": Model(
        source="Lightricks/LTX-Video-0.9.5",
        checkpoint=single_file("ltxv-2b-0.9.8-distilled.safetensors"),
        **LTX_098,
        cites=(f"{LIGHTRICKS}/ltxv-2b-0.9.8-distilled.yaml", f"{DIFFUSERS}/ltx_video", NAG_NODES),
        about="LTX-Video 0.9.8 2B distilled, from its single file; first pass",
    ),
    "ltx-0.9.8-13b-distilled": Model(
        source="Lightricks/LTX-Video-0.9.8-13B-distilled",
        **LTX_098,
        cites=(f"{LIGHTRICKS}/ltxv-13b-0.9.8-distilled.yaml", f"{DIFFUSERS}/ltx_video", NAG_NODES),
        about="LTX-Video 0.9.8 13B distilled; first pass",
    ),
    "ltx-2-distilled": Model(
        source="rootonchair/LTX-2-19b-distilled",
        **LTX2,
        about="LTX-2 19B distilled; first stage; with audio",
    ),
    "ltx-2.5-distilled": Model(
        source="Lightricks/LTX-2.5-Diffusers",
        **LTX2,
        about="LTX-2.5 distilled; first stage; with audio",
    ),
}
