"""Presets of few-step video models for diffusers. Each cites the pages its values come from.

No preset has been run in this repository on its real weights; `Model.ran` records where one has been. Omitted: FastWan
2.1 (needs sparse attention that diffusers lacks); the original Self-Forcing, rCM and TurboDiffusion checkpoints (not
published as safetensors); CogVideoX (no few-step weights that diffusers loads).
"""

import dataclasses

from vidguide.pipelines.models.ltx import LTX_VIDEO
from vidguide.pipelines.models.sources import (
    DIFFUSERS,
    FASTVIDEO,
    NAG_HUNYUAN,
    NAG_NODE,
    NAG_NODES,
    NAG_WORKFLOWS,
    REVISIONS,
)
from vidguide.pipelines.models.spec import SHIPPED, Checkpoint, Lora, Model
from vidguide.pipelines.models.wan import WAN

OTHER_FAMILIES = {
    "fasthunyuan": Model(
        source="FastVideo/FastHunyuan-diffusers",
        pipeline="HunyuanVideoPipeline",
        scheduler="FlowMatchEulerDiscreteScheduler",
        scheduler_settings={"shift": 17.0},
        steps=6,
        height=720,
        width=1280,
        frames=125,
        fps=24,
        guidance_scale=1.0,
        distilled=True,
        image="no",
        tiling=True,
        nag=NAG_HUNYUAN,
        call={"guidance_scale": 6.0},  # embedded guidance: an input of the model, not classifier-free guidance
        cites=(
            "https://huggingface.co/FastVideo/FastHunyuan",
            f"{FASTVIDEO}/configs/pipelines/hunyuan.py",
            f"{FASTVIDEO}/pipelines/basic/hunyuan/presets.py",
            NAG_WORKFLOWS,
        ),
        about="FastHunyuan: HunyuanVideo in 6 steps",
    ),
    "hunyuan1.5-i2v-step-distilled": Model(
        source="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v_step_distilled",
        pipeline="HunyuanVideo15ImageToVideoPipeline",
        scheduler="FlowMatchEulerDiscreteScheduler",
        scheduler_settings={"shift": 7.0},
        steps=12,
        frames=121,
        fps=24,
        guidance_scale=1.0,
        distilled=True,
        image="must",
        tiling=True,
        nag=NAG_HUNYUAN,
        cites=(
            "https://github.com/Tencent-Hunyuan/HunyuanVideo-1.5#optimal-inference-configurations",
            f"{DIFFUSERS}/hunyuan_video15",
            NAG_WORKFLOWS,
        ),
        about="HunyuanVideo 1.5 480p image-to-video, step-distilled; size from the image",
    ),
    "kandinsky5-lite-distilled": Model(
        source="kandinskylab/Kandinsky-5.0-T2V-Lite-distilled16steps-5s-Diffusers",
        pipeline="Kandinsky5T2VPipeline",
        steps=16,
        height=512,
        width=768,
        frames=121,
        fps=24,
        guidance_scale=1.0,
        distilled=True,
        image="no",
        nag=NAG_NODE,
        cites=(f"{DIFFUSERS}/kandinsky5_video", NAG_NODES),
        about="Kandinsky 5.0 Lite distilled to 16 steps",
    ),
}


def pinned(model: Model) -> Model:
    """Return a declaration with the commits that `REVISIONS` has for its repositories."""

    def commit(part: Checkpoint | Lora) -> str | None:
        return REVISIONS.get(f"{part.source}/{part.file}", REVISIONS.get(part.source))

    return dataclasses.replace(
        model,
        revision=REVISIONS.get(model.source),
        checkpoint=model.checkpoint and dataclasses.replace(model.checkpoint, revision=commit(model.checkpoint)),
        loras=tuple(dataclasses.replace(lora, revision=commit(lora)) for lora in model.loras),
    )


PRESETS: dict[str, Model] = {name: pinned(model) for name, model in {**WAN, **LTX_VIDEO, **OTHER_FAMILIES}.items()}
MODELS: dict[str, Model] = {**SHIPPED, **PRESETS}
