"""A negative prompt in a few-step model, which runs without classifier-free guidance. Needs a GPU.

python examples/few_steps.py "a red panda surfing" "blurry, distorted" [wan2.1-14b-lightx2v] [first.png]

`vidguide models` lists the models.
"""

import sys

from vidguide import generate

prompt, negative_prompt = sys.argv[1:3]
model = sys.argv[3] if len(sys.argv) > 3 else "wan2.1-14b-lightx2v"
image = sys.argv[4] if len(sys.argv) > 4 else None

clip = generate(prompt, model=model, negative_prompt=negative_prompt, image=image)
print(clip.save("out/few-steps.mp4"))
print(clip.provenance["trace"])  # how much the negative prompt changed
