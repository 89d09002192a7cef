"""Few-step models of the Wan family."""

from typing import Any

from vidguide.pipelines.models import Lora, Model
from vidguide.pipelines.preset_sources import (
    DIFFUSERS,
    FASTVIDEO,
    LIGHTX2V,
    NAG_FEW_STEPS,
    NAG_FEW_STEPS_IMAGE,
    NAG_RULES,
    NAG_WORKFLOWS,
)

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


def experts(source: str, high: str, low: str) -> tuple[Lora, ...]:
    """Adapters for Wan 2.2's experts: of high noise, which comes first, and of low."""
    return (Lora(source=source, file=high), Lora(source=source, file=low, component="transformer_2"))


def lightning(folder: str) -> tuple[Lora, ...]:
    """Wan 2.2 Lightning's adapters."""
    files = (f"{folder}/{noise}_noise_model.safetensors" for noise in ("high", "low"))
    return experts("lightx2v/Wan2.2-Lightning", *files)


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
    "wan2.2-14b-lightx2v": Model(
        source="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        pipeline="WanPipeline",
        loras=experts(
            "lightx2v/Wan2.2-Distill-Loras",
            "wan2.2_t2v_A14b_high_noise_lora_rank64_lightx2v_4step_1217.safetensors",
            "wan2.2_t2v_A14b_low_noise_lora_rank64_lightx2v_4step_1217.safetensors",
        ),
        **FOUR_STEPS,
        **WAN_480P,
        boundary=0.875,
        nag=NAG_FEW_STEPS,
        cites=(
            f"{LIGHTX2V}/wan22/wan_moe_t2v_distill_lora.json",
            "https://huggingface.co/lightx2v/Wan2.2-Distill-Loras",
            NAG_WORKFLOWS,
        ),
        about="Wan 2.2 14B, two experts, with lightx2v's two LoRAs of December 2025",
    ),
    "wan2.2-i2v-14b-lightx2v": Model(
        source="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        pipeline="WanImageToVideoPipeline",
        loras=experts(
            "lightx2v/Wan2.2-Distill-Loras",
            "wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step_1022.safetensors",
            "wan2.2_i2v_A14b_low_noise_lora_rank64_lightx2v_4step_1022.safetensors",
        ),
        **FOUR_STEPS,
        **{**WAN_720P, **FROM_IMAGE},
        boundary=0.9,
        nag=NAG_FEW_STEPS_IMAGE,
        cites=(
            f"{LIGHTX2V}/wan22/wan_moe_i2v_distill_with_lora.json",
            "https://huggingface.co/lightx2v/Wan2.2-Distill-Loras",
            NAG_RULES,
        ),
        about="Wan 2.2 14B image-to-video, two experts, with lightx2v's two LoRAs of October 2025",
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
