"""A negative prompt in a few-step model, which runs without classifier-free guidance.

python examples/few_steps.py ["a large circle moving right" "red" [MODEL [first.png]]]

MODEL is the four-step model that ships, or a preset that needs a GPU, such as wan2.1-14b-lightx2v; `vidguide models`
lists them. first.png is the first image, for a model that takes one.
"""

import sys

from vidguide import generate

given = dict(enumerate(sys.argv))
prompt, negative_prompt = given.get(1, "a large circle moving right"), given.get(2, "red")
model, image = given.get(3, "tiny-4step"), given.get(4)

clip = generate(prompt, model=model, negative_prompt=negative_prompt, image=image)
print(clip.save("out/few-steps.mp4"))
print(clip.provenance["trace"])  # how much the negative prompt changed
