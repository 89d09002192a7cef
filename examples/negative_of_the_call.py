"""NAG takes the negative prompt of each call of the pipeline; a call without one is not guided."""

from vidguide import NAG, guide
from vidguide.pipelines.loading.load import load

pipe = load("tiny-4step")
size = dict(height=64, width=64, num_frames=13, num_inference_steps=4, guidance_scale=1.0)

with guide(pipe, NAG()) as run:
    for negative_prompt in ("red", "staying still", None):
        pipe("a large circle", negative_prompt=negative_prompt, **size)
        print(f"negative prompt: {negative_prompt}", run.trace, sep="\n")
