"""Plan the presets whose configurations are stored, and write docs/plans.md.

    python benchmarks/plans.py [--only NAME ...] [--output FILE]

Nothing is downloaded: each preset's pipeline is called on fake tensors, as by `vidguide plan`.
"""

import argparse
from pathlib import Path

from vidguide.eval.report.markdown_table import markdown_table
from vidguide.pipelines.models.configs import CONFIGS
from vidguide.pipelines.models.presets import PRESETS
from vidguide.pipelines.planning.plan import GIB, Plan, plan

PAGE = Path(__file__).parents[1] / "docs" / "plans.md"
NAMES = [name for name, model in PRESETS.items() if model.source in CONFIGS]
HEAD = """# Plans of the presets

Made by `python benchmarks/plans.py`, without weights: what `vidguide plan -m NAME` counts for a clip of each preset, in
bfloat16, for those whose configurations are in `pipelines/models/configs.py` ([plan.md](plan.md) says what is counted
and what is not). No figure was checked on a GPU. Memory is in GiB: *all* with all weights on the device, *by model*
with `--offload model`, both the largest over all phases, without workspaces. LoRAs are not counted.

"""


def row(name: str, planned: Plan) -> list[str]:
    """Return the cells of a preset."""
    size, weights = planned.size, sum(component.bytes for component in planned.components)
    by_component = {component.name: component.bytes for component in planned.components}
    largest = max(phase.intermediate for phase in planned.phases)
    by_model = max(by_component[phase.component] + phase.intermediate for phase in planned.phases)
    phases = {phase.name: phase for phase in planned.phases}
    memory = [phases[each].intermediate for each in ("text", "step", "decode")]
    return [
        f"`{name}`",
        f"{size.width}x{size.height}, {size.frames} frames",
        f"{planned.tokens:,}",
        str(size.steps),
        f"{phases['step'].cost.flops / 1e12:,.0f}",
        f"{phases['decode'].cost.flops / 1e12:,.0f}",
        f"{weights / GIB:.1f}",
        *(f"{each / GIB:.1f}" for each in memory),
        f"{(weights + largest) / GIB:.1f}",
        f"{by_model / GIB:.1f}",
    ]


COLUMNS = ["preset", "clip", "video tokens", "steps", "TFLOPs of a step", "of the decode", "weights"]
COLUMNS += ["text", "step", "decode", "all", "by model"]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="NAME", help="presets")
    parser.add_argument("--output", type=Path, default=PAGE, help="page to write")
    options = parser.parse_args()
    rows = []
    for name in options.only:
        rows.append(row(name, plan(name, device="cuda")))
        print(" | ".join(rows[-1]), flush=True)
    options.output.write_text(HEAD + markdown_table(COLUMNS, rows) + "\n")


if __name__ == "__main__":
    main()
