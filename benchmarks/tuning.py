"""Compare settings that `vidguide tune` finds on a shipped model with the choice from the committed grid.

    python benchmarks/tuning.py prompts FILE                     # cases that neither the grid nor the comparison uses
    vidguide tune -m tiny-4step -g nag --over scale=3:16:log tau=1:5:log alpha=0.1:1 --prompts FILE \
        --keep world.attributes:0.05,world.well_formed:0.1 --budget 1228 --pairs 96 --held-out 48 -o FOLDER
    python benchmarks/tuning.py compare FOLDER [--clips 256]     # writes results/tune_tiny-4step.{md,json}
    python benchmarks/tuning.py tables                           # from the recorded judgements

The grid has 24 arms of 256 clips (`negative_prompt.py --arms grid`), of which `vidguide tune` may use a fifth in all:
1228. Both choices are then compared on further cases, paired, in the judgements of that benchmark.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from negative_prompt import BASE, arm_rows, paired_differences, recorded
from reporting import RESULTS, add_output, paired, percent, table, write
from sampling import Arm, Case, Result, sample

from vidguide.guidances.base import Guidance
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.request.guidance_spec import fill_negative_prompt, parse

MODEL = "tiny-4step"
NAME = f"tune_{MODEL}"
GRID_CHOICE = "nag:tau=1.25,alpha=0.5"  # of negative_prompt_tiny-4step_grid.md; scale 11
GRID_CLIPS = 24 * 256
FIRST_PROMPT, PROMPTS, FIRST = 30_000, 400, 40_000  # numbers of cases: to tune with, and of the comparison
JUDGEMENTS = {"unwanted": -1, "as asked": 1, "well-formed": 1}  # and whether more is better


def write_prompts(path: Path) -> None:
    """Write cases as prompts for `vidguide tune`."""
    cases = [Case(index) for index in range(FIRST_PROMPT, FIRST_PROMPT + PROMPTS)]
    entries = [{"id": f"case {case.seed}", "prompt": case.prompt, "negative_prompt": case.negative} for case in cases]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def arm_of(spec: str) -> Arm:
    """Return an arm of a spec, with a negative prompt per sample of a batch."""

    def make(negatives: list[str]) -> tuple[Guidance, ...]:
        texts: Any = negatives
        return fill_negative_prompt(parse(spec), texts)

    return make


def difference_rows(results: dict[str, Result], names: dict[str, str]) -> list[dict[str, str]]:
    """Return a row for each setting of the tuning: its paired differences to the grid's choice, in points."""
    grid = results[names["grid"]].judged
    rows = []
    for what, name in names.items():
        if what != "grid":
            changes = {
                f"{judgement}, points": percent(paired(paired_differences(results[name].judged, grid, judgement)))
                for judgement in JUDGEMENTS
            }
            rows.append({"setting": what, "guidance": name, **changes})
    return rows


def conclusion(results: dict[str, Result], names: dict[str, str]) -> list[str]:
    """Return in which judgements each setting is worse than the grid's choice, by intervals and by means."""
    grid, lines = results[names["grid"]].judged, []
    for what, name in names.items():
        if what == "grid":
            continue
        gains = {}
        for judgement, sign in JUDGEMENTS.items():
            mean, *ends = paired(paired_differences(results[name].judged, grid, judgement))
            gains[judgement] = sign * mean, *sorted(sign * end for end in ends)
        sure = [judgement for judgement, (_, _, high) in gains.items() if high < 0]
        lower = [judgement for judgement, (mean, _, _) in gains.items() if mean < 0]
        most = -100 * min(low for _, low, _ in gains.values())
        lines.append(
            f"- {what}: by its intervals worse in {' and '.join(sure) or 'none'}, and by {most:.1f} points at most; "
            f"by its means worse in {' and '.join(lower) or 'none'}."
        )
    return lines


def compare(folder: Path, clips: int, output: Path) -> None:
    """Compare the recommended settings of a tuning with the grid's choice, and write the results."""
    tuned = json.loads((folder / "tuning.json").read_text())
    names = {"grid": GRID_CHOICE}
    for what, entry in tuned["recommended"].items():
        same = next((key for key, spec in names.items() if spec == entry["guidance"]), None)
        names[what if same in (None, "grid") else f"{same}, {what}"] = entry["guidance"]
        if same not in (None, "grid"):
            del names[same]
    arms = {BASE: arm_of("none"), **{spec: arm_of(spec) for spec in names.values()}}
    results = sample(load(MODEL, device="cpu"), MODEL, arms, range(FIRST, FIRST + clips))
    data = {"clips": clips, "first": FIRST, "names": names, "tuning": tuned}
    judged = {arm: {"judged": result.judged, "seconds": result.seconds} for arm, result in results.items()}
    write(NAME, report(results, names, tuned), {**data, "arms": judged}, output)


def report(results: dict[str, Result], names: dict[str, str], tuned: dict[str, Any]) -> str:
    """Return the results as Markdown.

    Args:
        results: by spec, with that of no guidance. names: specs by what they are. tuned: the tuning's JSON.
    """
    counts, tuning = tuned["clips"], tuned["tuning"]
    clips = len(results[BASE].judged)
    keep = ",".join(text.replace(":-", ":") for text in tuning["keep"])
    parts = [
        f"`vidguide tune -m {MODEL} -g nag --over {' '.join(tuning['over'])} --objective {tuning['objective']} "
        f"--keep {keep} --prompts FILE --budget {tuning['budget']} --pairs {len(tuning['pairs'])} "
        f"--held-out {len(tuning['held_out'])}`: {counts['all']} clips in all ({counts['reference']} without guidance, "
        f"{counts['trials']} in {len(tuned['trials'])} trials, {counts['held out']} held out), "
        f"{100 * counts['all'] / GRID_CLIPS:.0f}% of the grid's {GRID_CLIPS}.\n",
        f"On {clips} further cases, which neither used; the grid's choice is `{GRID_CHOICE}`:\n",
        table(arm_rows(results, list(range(clips)))),
        "Differences to the grid's choice:\n",
        table(difference_rows(results, names)),
        *conclusion(results, names),
        "",
    ]
    return "\n".join(parts)


def write_tables() -> None:
    """Write the tables again, without sampling."""
    data = json.loads((RESULTS / f"{NAME}.json").read_text())
    results, _ = recorded(NAME)
    (RESULTS / f"{NAME}.md").write_text(report(results, data["names"], data["tuning"]))


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("prompts", "compare", "tables"))
    parser.add_argument(
        "path", type=Path, nargs="?", default=Path("tuning"), help="file of prompts, or folder of tuning"
    )
    parser.add_argument("--clips", type=int, default=256)
    add_output(parser)
    arguments = parser.parse_args()
    if arguments.action == "prompts":
        write_prompts(arguments.path)
    elif arguments.action == "tables":
        write_tables()
    else:
        compare(arguments.path, arguments.clips, arguments.output)


if __name__ == "__main__":
    main()
