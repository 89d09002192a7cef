"""Guide a diffusers pipeline inside a `with` block. Any WanPipeline checkpoint can replace the shipped one."""

import torch
from diffusers import WanPipeline

from vidguide import NAG, Clip, guide
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.models.spec import SHIPPED

pipe = WanPipeline.from_pretrained(SHIPPED["tiny"].path)

with guide(pipe, NAG(negative_prompt="red")) as run:
    video = pipe(
        "a large circle moving right",
        height=64,
        width=64,
        num_frames=13,
        num_inference_steps=20,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
    ).frames[0]

print(run.trace)
print(Clip(frames=to_frames(video), fps=8).save("out/guided.mp4"))
