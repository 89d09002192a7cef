"""Guide a transformer that has a LoRA. Needs `pip install "vidguide[lora]"`."""

from peft import LoraConfig

from vidguide import NAG, guide
from vidguide.pipelines.loading.load import load

size = dict(height=64, width=64, num_frames=13, num_inference_steps=4, guidance_scale=1.0)
pipe = load("tiny-4step")

# A LoRA with random weights; `pipe.load_lora_weights(...)` reads one from a file.
pipe.transformer.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_v"]))
for weight in (1.0, 0.5):
    pipe.set_adapters("default", weight)
    with guide(pipe, NAG()) as run:
        pipe("a large circle", negative_prompt="red", **size)
    print(f"LoRA at {weight}", run.trace, sep="\n")
