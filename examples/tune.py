"""Find settings of NAG for a model, on a few clips. Needs `pip install "vidguide[tune]"`; takes a minute or two."""

from itertools import product
from pathlib import Path

from vidguide.pipelines.tuning.config import make_tuning
from vidguide.pipelines.tuning.report import command, recommended_rows, save
from vidguide.pipelines.tuning.run import tune

# Too few clips to conclude anything: a real run has hundreds.
prompts = [f"a {size} {shape} moving {way}" for size, shape, way in product(
    ("large", "small"), ("circle", "square", "triangle"), ("left", "right")
)]  # fmt: skip
tuning = make_tuning(
    "tiny-4step",
    "nag",
    ["tau=1:4", "alpha=0.1:0.5"],
    prompts,
    objective="world.worst_fit",  # how well the worst frame is drawn; it has room for improvement in few clips too
    keep=["world.attributes:0.5"],
    negative_prompt="grey background",
    budget=48,
    pairs=6,
    held_out=6,
)
folder = Path("out/tuning")
result = tune(tuning, folder)  # the same call continues an interrupted run
for row in recommended_rows(result):
    print(*row.values())
for trial in result.recommended.values():
    print(command(tuning, trial))
print(*save(result, folder))
