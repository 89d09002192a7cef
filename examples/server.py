"""Guidances on the pipeline of a server: one thread works through requests, each with a negative prompt of its own."""

from concurrent.futures import ThreadPoolExecutor

from vidguide import NAG, Clip, attach, attached
from vidguide.pipelines.generate import to_frames
from vidguide.pipelines.loading.load import load

pipe = load("tiny-4step")
attach(pipe, NAG())


def respond(number: int, prompt: str, negative_prompt: str | None) -> str:
    """Make a clip, save it, and describe it."""
    size = dict(height=64, width=64, num_frames=13, num_inference_steps=4, guidance_scale=1.0)
    video = pipe(prompt, negative_prompt=negative_prompt, **size).frames[0]
    path = Clip(frames=to_frames(video), fps=8).save(f"out/request-{number}.mp4")
    return f"{path}: {attached(pipe).trace.summary()}"


requests = [("a large circle", "red"), ("a small square", "yellow"), ("a small triangle", None)]
with ThreadPoolExecutor(max_workers=1) as worker:  # a pipeline makes one clip at a time
    for line in worker.map(respond, range(len(requests)), *zip(*requests, strict=True)):
        print(line)
