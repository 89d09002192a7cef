"""Write the trained parts as a WanPipeline folder of safetensors, the form in which the model ships.

python training/export.py --work work --output pipelines/weights/tiny
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from text import make_tokenizer
from transformer import SHIFT, TextToVelocity
from vae import CONFIG

TOKENIZER_CLASS = "PreTrainedTokenizerFast"  # the name that both transformers 4 and 5 load


def assemble(work: Path) -> WanPipeline:
    """The pipeline from the training states: the averaged transformer, and the best decoder there is."""
    tokenizer = make_tokenizer()
    model = TextToVelocity(len(tokenizer))
    model.load_state_dict(torch.load(work / "transformer.pt", map_location="cpu", weights_only=True)["average"])
    data = torch.load(work / "latents.pt", map_location="cpu", weights_only=True)
    vae = AutoencoderKLWan(**CONFIG | dict(latents_mean=data["mean"].tolist(), latents_std=data["std"].tolist()))
    decoder = work / "vae_decoder.pt"
    state = torch.load(decoder if decoder.exists() else work / "vae_both.pt", map_location="cpu", weights_only=True)
    vae.load_state_dict(state["model"])
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=model.text_encoder.eval(),
        transformer=model.transformer.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    )


def portable(folder: Path) -> None:
    """Name the tokenizer's class so that older versions of transformers find it."""
    for name, key in (("model_index.json", "tokenizer"), ("tokenizer/tokenizer_config.json", "tokenizer_class")):
        path = folder / name
        content = json.loads(path.read_text())
        content[key] = ["transformers", TOKENIZER_CLASS] if key == "tokenizer" else TOKENIZER_CLASS
        path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    pipe = assemble(args.work)
    # Half precision on disk; loaders bring it back to float32. The text encoder is small, and transformers keeps
    # the dtype that it finds.
    pipe.transformer.half()
    pipe.vae.half()
    pipe.save_pretrained(args.output, safe_serialization=True)
    portable(args.output)
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"{args.output}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
