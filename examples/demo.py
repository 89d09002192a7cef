"""vidguide in a minute: one prompt with the shipped model, without and with a negative prompt.

python examples/demo.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

from rich.console import Console

from vidguide import NAG, generate
from vidguide.eval.world.oracle import read
from vidguide.pipelines.loading.load import load

PROMPT, NEGATIVE = "a large circle moving right on a white background", "red"
SEEDS = range(8)


def main() -> None:
    """Find a seed whose clip has the unwanted colour, and generate it again from the same noise with NAG."""
    folder, console = Path(sys.argv[1] if len(sys.argv) > 1 else "out"), Console()
    pipe = load("tiny")
    for seed in SEEDS:
        plain = generate(PROMPT, seed=seed, pipe=pipe, progress=False)
        if read(plain.frames).scene.colour == NEGATIVE:
            break
    console.print(f"prompt   {PROMPT!r}\nnegative {NEGATIVE!r}\nseed     {seed}\n", highlight=False)
    guided = generate(PROMPT, negative_prompt=NEGATIVE, guidance=[NAG()], seed=seed, pipe=pipe, progress=False)
    for name, clip in (("without NAG", plain), ("with NAG", guided)):
        stem = folder / name.replace(" ", "-")
        reading = read(clip.frames)
        scene = ", ".join(f"{attribute} {value or 'none'}" for attribute, value in vars(reading.scene).items())
        console.print(f"{name}: the oracle sees {scene}; well-formed: {'yes' if reading.well_formed else 'no'}")
        for suffix in (".mp4", ".png"):
            console.print(f"  {clip.save(stem.with_suffix(suffix))}", highlight=False)
        console.print(f"  {stem.with_suffix('.json')}", highlight=False)


if __name__ == "__main__":
    main()
