"""Compare two folders of clips, paired by prompt and seed. Needs `pip install "vidguide[eval]"`."""

from pathlib import Path

from vidguide import NAG, generate
from vidguide.eval.evaluate import evaluate
from vidguide.pipelines.loading.load import load

folder, pipe = Path("out/folders"), load("tiny-4step")
for seed in range(3):
    for arm, guidance in (("none", []), ("nag", [NAG(tau=1.25, alpha=0.5)])):
        clip = generate(
            "a large circle",
            model="tiny-4step",
            pipe=pipe,
            guidance=guidance,
            negative_prompt="red" if guidance else None,
            seed=seed,
        )
        clip.save(folder / arm / f"{seed}.mkv")  # lossless, with a JSON of prompt and seed

summary = evaluate([], arms=(str(folder / "none"), str(folder / "nag")), output=folder / "report")
for comparison in summary.comparisons:
    print(comparison.other, "against", comparison.reference)
print(folder / "report" / "report.html")
