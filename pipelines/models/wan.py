"""Few-step presets of the Wan family."""

from typing import Any

from vidguide.pipelines.models.sources import (
    DIFFUSERS,
    FASTVIDEO,
    HUB,
    LIGHTX2V,
    NAG_FEW_STEPS,
    NAG_FEW_STEPS_IMAGE,
    NAG_RULES,
    NAG_WORKFLOWS,
)
from vidguide.pipelines.models.spec import Lora, Model

DISTILLED: dict[str, Any] = dict(frames=81, fps=16, guidance_scale=1.0, distilled=True)
FROM_TEXT: dict[str, Any] = dict(**DISTILLED, pipeline="WanPipeline", image="no", nag=NAG_FEW_STEPS)
FROM_IMAGE: dict[str, Any] = dict(
    **DISTILLED, pipeline="WanImageToVideoPipeline", image="must", nag=NAG_FEW_STEPS_IMAGE
)
AT_480P: dict[str, Any] = dict(height=480, width=832)
AT_720P: dict[str, Any] = dict(height=720, width=1280)
# lightx2v's distillation schedule: Euler over timesteps 1000, 750, 500, 250, then a shift of 5.
FOUR_STEPS: dict[str, Any] = dict(
    steps=4,
    sigmas=(1.0, 0.75, 0.5, 0.25),
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings={"shift": 5.0},
)
UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000}
KIJAI = "Kijai/WanVideo_comfy"
DISTILL_2_1, DISTILL_2_2 = "lightx2v/Wan2.1-Distill-Loras", "lightx2v/Wan2.2-Distill-Loras"
LIGHTNING = "lightx2v/Wan2.2-Lightning"
ANYFLOW: dict[str, Any] = {
    **FROM_TEXT,
    **AT_480P,
    "pipeline": "AnyFlowPipeline",
    "steps": 4,
    "cites": (f"{DIFFUSERS}/anyflow", NAG_WORKFLOWS),
}


def experts(source: str, file: str) -> tuple[Lora, ...]:
    """Return the LoRAs of Wan 2.2's two experts; `{}` in `file` stands for `high` (first) and `low` (second expert)."""
    high, low = (file.format(noise) for noise in ("high", "low"))
    return Lora(source=source, file=high), Lora(source=source, file=low, component="transformer_2")


WAN = {
    "wan2.1-14b-lightx2v": Model(
        source="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        loras=(Lora(source=DISTILL_2_1, file="wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors"),),
        **FROM_TEXT,
        **AT_480P,
        **FOUR_STEPS,
        cites=(f"{LIGHTX2V}/wan21/wan_t2v_distill_lora_4step_cfg.json", f"{HUB}/{DISTILL_2_1}", NAG_WORKFLOWS),
        about="Wan 2.1 14B with lightx2v's step-distillation LoRA",
    ),
    "wan2.1-i2v-14b-lightx2v": Model(
        source="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        loras=(Lora(source=DISTILL_2_1, file="wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors"),),
        **FROM_IMAGE,
        **AT_480P,
        **FOUR_STEPS,
        cites=(f"{LIGHTX2V}/wan21/wan_i2v_distill_lora_4step_cfg.json", f"{HUB}/{DISTILL_2_1}", NAG_RULES),
        about="Wan 2.1 14B image-to-video with lightx2v's step-distillation LoRA",
    ),
    "wan2.1-14b-causvid": Model(
        source="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        loras=(Lora(source=KIJAI, file="Wan21_CausVid_14B_T2V_lora_rank32_v1_5_no_first_block.safetensors"),),
        scheduler="UniPCMultistepScheduler",
        scheduler_settings={**UNIPC, "flow_shift": 5.0},
        steps=4,
        **FROM_TEXT,
        **AT_480P,
        cites=(
            "https://github.com/ChenDarYen/ComfyUI-NAG/blob/main/workflows/NAG-Wan-Fast-ComfyUI-Workflow.json",
            f"{HUB}/{KIJAI}",
        ),
        about="Wan 2.1 14B with the CausVid LoRA (v1.5), as in NAG's workflow",
    ),
    "wan2.1-1.3b-causvid": Model(
        source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        loras=(Lora(source=KIJAI, file="Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors", strength=0.5),),
        scheduler="UniPCMultistepScheduler",
        scheduler_settings={**UNIPC, "flow_shift": 3.0},
        steps=8,
        **{**FROM_TEXT, "nag": {"scale": 4.0, "tau": 2.5, "alpha": 0.25}},
        **AT_480P,
        cites=("https://github.com/weathon/VSF/blob/main/experiments/video_reward/wan_nag.py",),
        about="Wan 2.1 1.3B with the CausVid LoRA, as VSF's authors compared NAG",
    ),
    "wan2.1-1.3b-self-forcing": Model(
        source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        loras=(
            Lora(
                source=KIJAI,
                file="LoRAs/Wan2_1_self_forcing_1_3B/Wan2_1_self_forcing_dmd_1_3B_lora_rank_32_fp16.safetensors",
            ),
        ),
        **{**FOUR_STEPS, "scheduler_settings": {"shift": 5.0, "stochastic_sampling": True}},
        **FROM_TEXT,
        **AT_480P,
        cites=(
            "https://github.com/guandeh17/Self-Forcing/blob/main/configs/self_forcing_dmd.yaml",
            f"{HUB}/{KIJAI}/tree/main/LoRAs",
            NAG_WORKFLOWS,
        ),
        about="Wan 2.1 1.3B with a LoRA extracted from Self-Forcing (DMD); all frames at once, not causal",
    ),
    "fastwan2.2-5b": Model(
        source="FastVideo/FastWan2.2-TI2V-5B-FullAttn-Diffusers",
        scheduler="FlowMatchEulerDiscreteScheduler",
        # DMD: predict the clean clip, then add fresh noise at the next level. Timesteps 1000, 757, 522, unshifted.
        scheduler_settings={"shift": 1.0, "stochastic_sampling": True},
        steps=3,
        sigmas=(1.0, 0.757, 0.522),
        **{**FROM_TEXT, "frames": 121, "fps": 24, "image": "may"},
        height=704,
        width=1280,
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
        loras=experts(LIGHTNING, "Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/{}_noise_model.safetensors"),
        **FROM_TEXT,
        **AT_720P,
        **FOUR_STEPS,
        boundary=0.875,
        cites=(
            "https://github.com/ModelTC/Wan2.2-Lightning/blob/main/wan/configs/wan_t2v_A14B.py",
            f"{HUB}/{LIGHTNING}",
            "https://github.com/huggingface/diffusers/pull/12074",
            NAG_WORKFLOWS,
        ),
        about="Wan 2.2 14B, two experts, with Lightning's two LoRAs",
    ),
    "wan2.2-i2v-14b-lightning": Model(
        source="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        loras=experts(LIGHTNING, "Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1/{}_noise_model.safetensors"),
        **FROM_IMAGE,
        **AT_720P,
        **FOUR_STEPS,
        boundary=0.9,
        cites=(
            "https://github.com/ModelTC/Wan2.2-Lightning/blob/main/wan/configs/wan_i2v_A14B.py",
            f"{HUB}/{LIGHTNING}",
            "https://github.com/huggingface/diffusers/pull/12074",
            NAG_RULES,
        ),
        about="Wan 2.2 14B image-to-video, two experts, with Lightning's two LoRAs",
    ),
    "wan2.2-14b-lightx2v": Model(
        source="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        loras=experts(DISTILL_2_2, "wan2.2_t2v_A14b_{}_noise_lora_rank64_lightx2v_4step_1217.safetensors"),
        **FROM_TEXT,
        **AT_480P,
        **FOUR_STEPS,
        boundary=0.875,
        cites=(f"{LIGHTX2V}/wan22/wan_moe_t2v_distill_lora.json", f"{HUB}/{DISTILL_2_2}", NAG_WORKFLOWS),
        about="Wan 2.2 14B, two experts, with lightx2v's two LoRAs of December 2025",
    ),
    "wan2.2-i2v-14b-lightx2v": Model(
        source="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        loras=experts(DISTILL_2_2, "wan2.2_i2v_A14b_{}_noise_lora_rank64_lightx2v_4step_1022.safetensors"),
        **FROM_IMAGE,
        **AT_720P,
        **FOUR_STEPS,
        boundary=0.9,
        cites=(f"{LIGHTX2V}/wan22/wan_moe_i2v_distill_with_lora.json", f"{HUB}/{DISTILL_2_2}", NAG_RULES),
        about="Wan 2.2 14B image-to-video, two experts, with lightx2v's two LoRAs of October 2025",
    ),
    "anyflow-1.3b": Model(
        source="nvidia/AnyFlow-Wan2.1-T2V-1.3B-Diffusers",
        **ANYFLOW,
        about="AnyFlow 1.3B, any number of steps; 4 here",
    ),
    "anyflow-14b": Model(
        source="nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers",
        **ANYFLOW,
        about="AnyFlow 14B, any number of steps; 4 here",
    ),
}
