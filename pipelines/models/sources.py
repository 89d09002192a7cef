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
