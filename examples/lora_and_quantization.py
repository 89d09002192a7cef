"""A LoRA from a file, and weights in 8 bits. Needs `pip install "vidguide[lora]"`.

python examples/lora_and_quantization.py [QUANTIZATION]

QUANTIZATION is a format such as torchao-int8 (`pip install torchao`); without it the weights are stored in float8, and
each layer is cast while it runs.
"""

import sys
from pathlib import Path

from diffusers import WanPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from vidguide import NAG, Setup, generate
from vidguide.pipelines.loading.load import load

# A LoRA with random weights, as a training would save it.
pipe = load("tiny-4step")
pipe.transformer.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_v"]))
weights = get_peft_model_state_dict(pipe.transformer)
WanPipeline.save_lora_weights("out/lora", transformer_lora_layers=weights)
lora = Path("out/lora/pytorch_lora_weights.safetensors")

small = Setup(quantization=sys.argv[1]) if len(sys.argv) > 1 else Setup(layerwise_casting="float8_e4m3fn")
for name, setup in {"plain": Setup(), "lora": Setup(loras=(f"{lora}:0.5",)), "small": small}.items():
    clip = generate("a large circle", model="tiny-4step", setup=setup, guidance=[NAG(negative_prompt="red")], seed=1)
    print(clip.save(f"out/{name}.mp4"), clip.provenance["trace"]["steps"], "steps,", setup.values())
