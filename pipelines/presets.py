"""Presets of few-step video models that people run with diffusers: data, each with the pages its values are from.

Not one of them has been run here on its real weights; `Model.ran` will say where one has been. What could not be
documented was left out: FastWan 2.1 needs sparse attention that diffusers lacks, and Self-Forcing, rCM and
TurboDiffusion themselves are published in files that are no safetensors.
"""

from typing import Any

from vidguide.pipelines.models import SHIPPED, Checkpoint, Lora, Model

# Where NAG's parameters are from: its authors' workflows and rule of thumb (lower tau and alpha for image-to-video).
NAG_WORKFLOWS = "https://github.com/ChenDarYen/ComfyUI-NAG/tree/main/workflows"
NAG_RULES = "https://github.com/ChenDarYen/ComfyUI-NAG#rule-of-thumb"
NAG_NODES = "https://github.com/ChenDarYen/ComfyUI-NAG/blob/main/node.py"
NAG_FEW_STEPS = {"scale": 11.0, "tau": 3.5, "alpha": 0.5}  # NAG-Wan-Fast: Wan 2.1 14B in 4 steps
NAG_NODE = {"scale": 5.0, "tau": 2.5, "alpha": 0.25}  # the default of the nodes, for models without a workflow
NAG_HUNYUAN = {"scale": 9.0, "tau": 2.5, "alpha": 0.12}  # NAG-Hunyuan
NAG_FEW_STEPS_IMAGE = {"scale": 11.0, "tau": 2.5, "alpha": 0.25}  # tau and alpha of the nodes: the rule of thumb

LIGHTX2V = "https://github.com/ModelTC/LightX2V/blob/main/configs/distill"
DIFFUSERS = "https://huggingface.co/docs/diffusers/main/en/api/pipelines"
FASTVIDEO = "https://github.com/hao-ai-lab/FastVideo/blob/main/fastvideo"
LIGHTRICKS = "https://github.com/Lightricks/LTX-Video/blob/main/configs"

WAN_480P: dict[str, Any] = dict(
    height=480, width=832, frames=81, fps=16, guidance_scale=1.0, distilled=True, image="no"
)
WAN_720P: dict[str, Any] = {**WAN_480P, "height": 720, "width": 1280}
FROM_IMAGE = {"image": "must"}
# Euler over timesteps 1000, 750, 500, 250 before a shift of 5: how lightx2v's models were distilled.
FOUR_STEPS: dict[str, Any] = dict(
    steps=4,
    sigmas=(1.0, 0.75, 0.5, 0.25),
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings={"shift": 5.0},
)
UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000}
KIJAI = "Kijai/WanVideo_comfy"


def lightning(folder: str) -> tuple[Lora, ...]:
    """Wan 2.2 Lightning's adapters, one for each expert."""
    files = {"transformer": "high_noise_model.safetensors", "transformer_2": "low_noise_model.safetensors"}
    return tuple(
        Lora(source="lightx2v/Wan2.2-Lightning", file=f"{folder}/{file}", component=component)
        for component, file in files.items()
    )


WAN = {
    "wan2.1-14b-lightx2v": Model(
        source="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        pipeline="WanPipeline",
        loras=(
            Lora(
                source="lightx2v/Wan2.1-Distill-Loras",
                file="wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors",
            ),
        ),
        **FOUR_STEPS,
        **WAN_480P,
        nag=NAG_FEW_STEPS,
        cites=(
            f"{LIGHTX2V}/wan21/wan_t2v_distill_lora_4step_cfg.json",
            "https://huggingface.co/lightx2v/Wan2.1-Distill-Loras",
            NAG_WORKFLOWS,
        ),
        about="Wan 2.1 14B with lightx2v's step-distillation LoRA",
    ),
    "wan2.1-i2v-14b-lightx2v": Model(
        source="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        pipeline="WanImageToVideoPipeline",
        loras=(
            Lora(
                source="lightx2v/Wan2.1-Distill-Loras",
                file="wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors",
            ),
        ),
        **FOUR_STEPS,
        **{**WAN_480P, **FROM_IMAGE},
        nag=NAG_FEW_STEPS_IMAGE,
        cites=(
            f"{LIGHTX2V}/wan21/wan_i2v_distill_lora_4step_cfg.json",
            "https://huggingface.co/lightx2v/Wan2.1-Distill-Loras",
            NAG_RULES,
        ),
        about="Wan 2.1 14B image-to-video with lightx2v's step-distillation LoRA",
    ),
    "wan2.1-14b-causvid": Model(
        source="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        pipeline="WanPipeline",
        loras=(Lora(source=KIJAI, file="Wan21_CausVid_14B_T2V_lora_rank32_v1_5_no_first_block.safetensors"),),
        scheduler="UniPCMultistepScheduler",
        scheduler_settings={**UNIPC, "flow_shift": 5.0},
        steps=4,
        **WAN_480P,
        nag=NAG_FEW_STEPS,
        cites=(
            "https://github.com/ChenDarYen/ComfyUI-NAG/blob/main/workflows/NAG-Wan-Fast-ComfyUI-Workflow.json",
            "https://huggingface.co/Kijai/WanVideo_comfy",
        ),
        about="Wan 2.1 14B with the CausVid LoRA (v1.5), as in NAG's own workflow",
    ),
    "wan2.1-1.3b-causvid": Model(
        source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        pipeline="WanPipeline",
        loras=(Lora(source=KIJAI, file="Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors", strength=0.5),),
        scheduler="UniPCMultistepScheduler",
        scheduler_settings={**UNIPC, "flow_shift": 3.0},
        steps=8,
        **WAN_480P,
        nag={"scale": 4.0, "tau": 2.5, "alpha": 0.25},
        cites=("https://github.com/weathon/VSF/blob/main/experiments/video_reward/wan_nag.py",),
        about="Wan 2.1 1.3B with the CausVid LoRA, as VSF's authors compared NAG",
    ),
    "wan2.1-1.3b-self-forcing": Model(
        source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        pipeline="WanPipeline",
        loras=(
            Lora(
                source=KIJAI,
                file="LoRAs/Wan2_1_self_forcing_1_3B/Wan2_1_self_forcing_dmd_1_3B_lora_rank_32_fp16.safetensors",
            ),
        ),
        **{**FOUR_STEPS, "scheduler_settings": {"shift": 5.0, "stochastic_sampling": True}},
        **WAN_480P,
        nag=NAG_FEW_STEPS,
        cites=(
            "https://github.com/guandeh17/Self-Forcing/blob/main/configs/self_forcing_dmd.yaml",
            "https://huggingface.co/Kijai/WanVideo_comfy/tree/main/LoRAs",
            NAG_WORKFLOWS,
        ),
        about="Wan 2.1 1.3B with a LoRA drawn from Self-Forcing (DMD); all frames at once, not causal",
    ),
    "fastwan2.2-5b": Model(
        source="FastVideo/FastWan2.2-TI2V-5B-FullAttn-Diffusers",
        pipeline="WanPipeline",
        scheduler="FlowMatchEulerDiscreteScheduler",
        # DMD: predict the clip, noise it anew to the next level. Timesteps 1000, 757, 522 are levels as they stand.
        scheduler_settings={"shift": 1.0, "stochastic_sampling": True},
        steps=3,
        sigmas=(1.0, 0.757, 0.522),
        height=704,
        width=1280,
        frames=121,
        fps=24,
        guidance_scale=1.0,
        distilled=True,
        image="may",
        nag=NAG_FEW_STEPS,
        cites=(
            f"{FASTVIDEO}/configs/pipelines/wan.py",
            f"{FASTVIDEO}/pipelines/stages/denoising.py",
            f"{FASTVIDEO}/pipelines/basic/wan/presets.py",
            NAG_WORKFLOWS,
        ),
        about="FastWan 2.2 5B with full attention, 3 steps of DMD",
    ),
    "wan2.2-14b-lightning": Model(
        source="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        pipeline="WanPipeline",
        loras=lightning("Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1"),
        **FOUR_STEPS,
        **WAN_720P,
        boundary=0.875,
        nag=NAG_FEW_STEPS,
        cites=(
            "https://github.com/ModelTC/Wan2.2-Lightning/blob/main/wan/configs/wan_t2v_A14B.py",
            "https://huggingface.co/lightx2v/Wan2.2-Lightning",
            "https://github.com/huggingface/diffusers/pull/12074",
            NAG_WORKFLOWS,
        ),
        about="Wan 2.2 14B, two experts, with Lightning's two LoRAs",
    ),
    "wan2.2-i2v-14b-lightning": Model(
        source="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        pipeline="WanImageToVideoPipeline",
        loras=lightning("Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1"),
        **FOUR_STEPS,
        **{**WAN_720P, **FROM_IMAGE},
        boundary=0.9,
        nag=NAG_FEW_STEPS_IMAGE,
        cites=(
            "https://github.com/ModelTC/Wan2.2-Lightning/blob/main/wan/configs/wan_i2v_A14B.py",
            "https://huggingface.co/lightx2v/Wan2.2-Lightning",
            "https://github.com/huggingface/diffusers/pull/12074",
            NAG_RULES,
        ),
        about="Wan 2.2 14B image-to-video, two experts, with Lightning's two LoRAs",
    ),
    "anyflow-1.3b": Model(
        source="nvidia/AnyFlow-Wan2.1-T2V-1.3B-Diffusers",
        pipeline="AnyFlowPipeline",
        steps=4,
        **WAN_480P,
        nag=NAG_FEW_STEPS,
        cites=(f"{DIFFUSERS}/anyflow", NAG_WORKFLOWS),
        about="AnyFlow 1.3B, any number of steps; 4 here",
    ),
    "anyflow-14b": Model(
        source="nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers",
        pipeline="AnyFlowPipeline",
        steps=4,
        **WAN_480P,
        nag=NAG_FEW_STEPS,
        cites=(f"{DIFFUSERS}/anyflow", NAG_WORKFLOWS),
        about="AnyFlow 14B, any number of steps; 4 here",
    ),
}

# Noise levels as they are given: no shift, whatever the folder's scheduler says.
AS_GIVEN = {"shift": 1.0, "use_dynamic_shifting": False, "shift_terminal": None}
LTX: dict[str, Any] = dict(
    pipeline="LTXConditionPipeline",
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings=AS_GIVEN,
    height=512,
    width=704,
    frames=161,
    fps=25,
    guidance_scale=1.0,
    distilled=True,
    image="may",
    tiling=True,
    nag=NAG_NODE,
    call={"decode_timestep": 0.05, "decode_noise_scale": 0.025, "image_cond_noise_scale": 0.0},
)
# The first pass of Lightricks' two: the second upscales, which is not done here.
LTX_TIMESTEPS = (1000.0, 993.7, 987.5, 981.2, 975.0, 909.4, 725.0)
LTX_098: dict[str, Any] = {**LTX, "steps": 7, "timesteps": LTX_TIMESTEPS}
LTX_SINGLE = "Lightricks/LTX-Video"
LTX2: dict[str, Any] = dict(
    pipeline="LTX2Pipeline",
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings=AS_GIVEN,
    steps=8,
    sigmas=(1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875),
    height=512,
    width=768,
    frames=121,
    fps=24,
    guidance_scale=1.0,
    distilled=True,
    image="may",
    tiling=True,
    nag=NAG_NODE,
    call={"audio_guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
    | {"audio_stg_scale": 0.0, "audio_modality_scale": 1.0},  # on by default, and meant for the full model
    cites=(f"{DIFFUSERS}/ltx2", "https://github.com/Lightricks/LTX-2/blob/main/packages/ltx-pipelines", NAG_NODES),
)

OTHERS = {
    "ltx-0.9.6-2b-distilled": Model(
        source="Lightricks/LTX-Video-0.9.5",
        checkpoint=Checkpoint(
            source=LTX_SINGLE, file="ltxv-2b-0.9.6-distilled-04-25.safetensors", components=("transformer", "vae")
        ),
        **{**LTX, "scheduler_settings": {**AS_GIVEN, "stochastic_sampling": True}},
        steps=8,
        cites=(f"{LIGHTRICKS}/ltxv-2b-0.9.6-distilled.yaml", f"{DIFFUSERS}/ltx_video", NAG_NODES),
        about="LTX-Video 0.9.6 2B distilled, from its single file",
    ),
    "ltx-0.9.8-2b-distilled": Model(
        source="Lightricks/LTX-Video-0.9.5",
        checkpoint=Checkpoint(
            source=LTX_SINGLE, file="ltxv-2b-0.9.8-distilled.safetensors", components=("transformer", "vae")
        ),
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
        about="LTX-2 19B distilled; first stage, the audio is not kept",
    ),
    "ltx-2.5-distilled": Model(
        source="Lightricks/LTX-2.5-Diffusers",
        **LTX2,
        about="LTX-2.5 distilled; first stage, the audio is not kept",
    ),
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
        call={"guidance_scale": 6.0},  # embedded: an input of the model, no classifier-free guidance
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

PRESETS: dict[str, Model] = {**WAN, **OTHERS}
MODELS: dict[str, Model] = {**SHIPPED, **PRESETS}
