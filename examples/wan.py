"""A negative prompt by NAG in Wan 2.1 1.3B. Needs a GPU.

python examples/wan.py "a red panda surfing" "blurry, distorted"
"""

import sys

import torch
from diffusers import WanPipeline

from vidguide import NAG, Clip, guide
from vidguide.pipelines.generate import to_frames

prompt, negative_prompt = sys.argv[1:3]
pipe = WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", torch_dtype=torch.bfloat16).to("cuda")

with guide(pipe, NAG(negative_prompt=negative_prompt)) as run:
    video = pipe(prompt, height=480, width=832, num_frames=81).frames[0]

print(run.trace)  # how much the negative prompt changed, by step and layer
Clip(frames=to_frames(video), fps=16).save("out/wan.mp4")
