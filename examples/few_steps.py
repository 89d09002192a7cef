"""A negative prompt in a few-step model, which runs without classifier-free guidance.

python examples/few_steps.py ["a large circle moving right" "red" [MODEL [first.png]]]

MODEL is the four-step model that ships, or a preset that needs a GPU, such as wan2.1-14b-lightx2v; `vidguide models`
lists them. first.png is the first image, for a model that takes one.
"""

import sys

from vidguide import generate

defaults = ["a large circle moving right", "red", "tiny-4step", None]
prompt, negative_prompt, model, image = [*sys.argv[1:], *defaults[len(sys.argv) - 1 :]]

clip = generate(str(prompt), model=str(model), negative_prompt=negative_prompt, image=image)
print(clip.save("out/few-steps.mp4"))
print(clip.provenance["trace"])  # how much the negative prompt changed
