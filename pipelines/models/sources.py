"""URLs cited by the presets, and the NAG parameters that its authors publish per kind of model."""

# NAG parameters: its authors' ComfyUI workflows, and their rule of thumb (lower tau and alpha for image-to-video).
NAG_WORKFLOWS = "https://github.com/ChenDarYen/ComfyUI-NAG/tree/main/workflows"
NAG_RULES = "https://github.com/ChenDarYen/ComfyUI-NAG#rule-of-thumb"
NAG_NODES = "https://github.com/ChenDarYen/ComfyUI-NAG/blob/main/node.py"
NAG_FEW_STEPS = {"scale": 11.0, "tau": 3.5, "alpha": 0.5}  # NAG-Wan-Fast: Wan 2.1 14B in 4 steps
NAG_NODE = {"scale": 5.0, "tau": 2.5, "alpha": 0.25}  # default of the ComfyUI nodes, for models without a workflow
NAG_HUNYUAN = {"scale": 9.0, "tau": 2.5, "alpha": 0.12}  # NAG-Hunyuan
NAG_FEW_STEPS_IMAGE = {
    "scale": 11.0,
    "tau": 2.5,
    "alpha": 0.25,
}  # tau and alpha of the ComfyUI nodes, by the rule of thumb

HUB = "https://huggingface.co"
LIGHTX2V = "https://github.com/ModelTC/LightX2V/blob/main/configs/distill"
DIFFUSERS = f"{HUB}/docs/diffusers/main/en/api/pipelines"
FASTVIDEO = "https://github.com/hao-ai-lab/FastVideo/blob/main/fastvideo"
LIGHTRICKS = "https://github.com/Lightricks/LTX-Video/blob/main/configs"

# Commits on the Hugging Face Hub of repositories, or of single files in them, as public code on GitHub states them with
# the name of the repository (read on 28 November 2026). The Hub itself was not reached: `benchmarks/presets.py` records
# the commits that a run has. For repositories that are not listed, or files whose presence at a commit nobody states,
# none was found.
REVISIONS = {
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": "38ec498cb3208fb688890f8cc7e94ede2cbd7f68",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "0fad780a534b6463e45facd96134c9f345acfa5b",
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": "b184e23a8a16b20f108f727c902e769e873ffc73",
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": "5be7df9619b54f4e2667b2755bc6a756675b5cd7",
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": "596658fd9ca6b7b71d5057529bbf319ecbc61d74",
    "FastVideo/FastWan2.2-TI2V-5B-FullAttn-Diffusers": "3e187042a324f6f5fb68fd22110a78725253de8f",
    "FastVideo/FastHunyuan-diffusers": "7e948fca38562e218ae34485e005956592d36d9b",
    "nvidia/AnyFlow-Wan2.1-T2V-1.3B-Diffusers": "4c2ec05c7fa4dbafbca131ad32430905c7ff2974",
    "lightx2v/Wan2.2-Lightning": "18bccf8884ec0a078eed79785eb4ef13ea16ce1e",
    "lightx2v/Wan2.1-Distill-Loras/wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors": (
        "27ae38da91014b947dd39cc3fa78b97cd7b386dd"
    ),
    "Lightricks/LTX-Video/ltxv-2b-0.9.8-distilled.safetensors": "8984fa25007f376c1a299016d0957a37a2f797bb",
    "Lightricks/LTX-Video-0.9.5": "e58e28c39631af4d1468ee57a853764e11c1d37e",
    "Lightricks/LTX-2.5-Diffusers": "426936f8b22dc28e4def61e515478b0b7e4a53cc",
    "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v_step_distilled": (
        "854c04a4c8a53d990b418c7478f0802c0fc8c726"
    ),
}
