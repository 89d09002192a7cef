"""Write the trained parts as a WanPipeline folder of safetensors, the format of the shipped model.

python training/export.py --work work --output pipelines/weights/tiny [--start pipelines/weights/tiny]
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from text import make_tokenizer
from transformer import SHIFT, TextToVelocity
from vae import CONFIG

TOKENIZER_CLASS = "PreTrainedTokenizerFast"  # a class name that transformers 4 and 5 load


def assemble_from(work: Path, start: Path) -> WanPipeline:
    """Return the pipeline that training started from, with the averaged transformer and text encoder."""
    pipe: WanPipeline = WanPipeline.from_pretrained(start)
    model = TextToVelocity(len(pipe.tokenizer))
    model.load_state_dict(torch.load(work / "transformer.pt", map_location="cpu", weights_only=True)["average"])
    pipe.text_encoder.load_state_dict(model.text_encoder.state_dict())
    pipe.transformer.load_state_dict(model.transformer.state_dict())
    return pipe


def assemble(work: Path) -> WanPipeline:
    """Return the pipeline from the training states: the averaged transformer, the decoder of stage 2 or else 1."""
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


def set_tokenizer_class(folder: Path) -> None:
    """Set the tokenizer's class name to one that older versions of transformers load."""
    for name, key in (("model_index.json", "tokenizer"), ("tokenizer/tokenizer_config.json", "tokenizer_class")):
        path = folder / name
        content = json.loads(path.read_text())
        content[key] = ["transformers", TOKENIZER_CLASS] if key == "tokenizer" else TOKENIZER_CLASS
        path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--start", type=Path, help="folder of the pipeline that training continued from")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    pipe = assemble_from(args.work, args.start) if args.start else assemble(args.work)
    # Half precision on disk; loaders convert it to float32. The text encoder stays in float32, as transformers
    # loads the stored dtype.
    pipe.transformer.half()
    pipe.vae.half()
    pipe.save_pretrained(args.output, safe_serialization=True)
    set_tokenizer_class(args.output)
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"{args.output}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
