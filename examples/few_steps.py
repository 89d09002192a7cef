"""A few-step model on a GPU, with a negative prompt that works without classifier-free guidance.

python examples/few_steps.py "a red panda surfing" "blurry, distorted" [wan2.1-14b-lightx2v] [first.png]

`vidguide models` lists the models that may be named.
"""

import sys

from vidguide import generate

prompt, negative_prompt = sys.argv[1:3]
model = sys.argv[3] if len(sys.argv) > 3 else "wan2.1-14b-lightx2v"
image = sys.argv[4] if len(sys.argv) > 4 else None

clip = generate(prompt, model=model, negative_prompt=negative_prompt, image=image)
print(clip.save("out/few-steps.mp4"))
print(clip.provenance["trace"])  # what the negative prompt did
