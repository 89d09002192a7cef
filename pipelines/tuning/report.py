"""The report of a tuning: recommended settings with intervals on held-out clips, and the Pareto front of all trials."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vidguide.eval.evaluate import write_text
from vidguide.eval.report.amounts import change, is_share, signed
from vidguide.eval.report.charts import Chart, Curve, Dot, Label, Line, rescale
from vidguide.eval.report.html_tables import plain_table
from vidguide.eval.report.page import Section, page
from vidguide.eval.scoring.verdict import direction
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.tuning.config import REFERENCE, Tuning, guard_text
from vidguide.pipelines.tuning.racing import Standing, Trial
from vidguide.pipelines.tuning.recommend import MEANING, gain
from vidguide.pipelines.tuning.run import HELD_OUT, TuningRun

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 56, 620, 20, 340  # of the picture, and of its axes, pixels
LETTERS = {"best": "B", "conservative": "C", "knee": "K"}
STYLES = {"finished": "series-0", "given up": "same", "failed": "bad"}
PROTOCOL = (
    "Settings were chosen by some pairs of prompt and seed. The intervals below are of other prompts and seeds, which "
    "no choice used: 95%, paired with the clips without the guidance. Trials are given up by 95% intervals after every "
    "eight clips, without a correction for several looks."
)


def save(run: TuningRun, folder: Path) -> list[Path]:
    """Write `tuning.json` and `report.html` into the folder; return their paths."""
    contents = {"tuning.json": json.dumps(to_dict(run), indent=1) + "\n", "report.html": to_html(run)}
    for name, text in contents.items():
        write_text(folder / name, text)
    return [folder / name for name in contents]


def command(tuning: Tuning, trial: Trial) -> str:
    """Return the command that generates a clip with the settings of a trial."""
    words = ["vidguide", "generate", "PROMPT", "-m", tuning.sweep.model]
    words += ["-n", "NEGATIVE"] if any(prompt.negative_prompt for prompt in tuning.sweep.prompts) else []
    words += ["--image", "IMAGE"] if any(prompt.image for prompt in tuning.sweep.prompts) else []
    settings, placement = tuning.sweep.settings, tuning.sweep.placement
    for flag, name in (("--steps", "steps"), ("--frames", "frames"), ("--cfg", "guidance_scale")):
        words += [flag, f"{settings[name]:.12g}"] if name in settings else []
    words += ["--size", f"{settings['width']}x{settings['height']}"] if "width" in settings else []
    words += ["--dtype", placement["dtype"]] if "dtype" in placement else []
    words += [word for name, value in placement.get("setup", Setup()).values().items() for word in option(name, value)]
    return shlex.join([*words, "-g", trial.spec])


def option(name: str, value: Any) -> list[str]:
    """Return the words of a setup's field on the command line: a list is an option that is repeated."""
    flag = "lora" if name == "loras" else name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{flag}"]
    return [word for each in (value if isinstance(value, list) else [value]) for word in (f"--{flag}", str(each))]


def recommended_rows(run: TuningRun) -> list[dict[str, str]]:
    """Return a row of text for each recommended setting: guidance, and changes on the held-out clips."""
    rows = []
    for name, trial in run.recommended.items():
        row = {"setting": name, "guidance": trial.spec}
        rows.append({**row, **changes(run.tuning, run.held_out[trial.number])})
    return rows


def changes(tuning: Tuning, standing: Standing) -> dict[str, str]:
    """Return the change of the objective and of each metric to keep, with intervals, and the side of the margin."""
    pairs = standing.pairs
    row = {tuning.objective: change(tuning.objective, pairs[tuning.objective].difference)}
    for name in dict.fromkeys(guard.id for guard in tuning.guards):
        sides = dict.fromkeys(standing.side(guard) for guard in tuning.guards if guard.id == name)
        row[name] = f"{change(name, pairs[name].difference)} ({' and '.join(sides)})"
    return row


def trial_rows(run: TuningRun) -> list[dict[str, str]]:
    """Return a row of text for each trial."""
    return [
        {
            "trial": str(trial.number),
            "guidance": trial.spec,
            "clips": str(trial.clips),
            "outcome": trial.outcome + (f": {trial.reason}" if trial.reason else ""),
            **({} if trial.standing is None else changes_by_choice(run.tuning, trial.standing)),
        }
        for trial in run.trials
    ]


def changes_by_choice(tuning: Tuning, standing: Standing) -> dict[str, str]:
    """Return the change of each metric on the pairs to choose by."""
    names = dict.fromkeys((tuning.objective, *(guard.id for guard in tuning.guards)))
    return {name: change(name, standing.pairs[name].difference) for name in names}


def notes(run: TuningRun) -> list[str]:
    """Return sentences on the number of clips, and on what is missing."""
    counts, tuning = run.clips, run.tuning
    lines = [
        f"{counts['all']} of {tuning.budget} clips: {counts['reference']} without the guidance, {counts['trials']} in "
        f"{len(run.trials)} trials, {counts['held out']} held out"
    ]
    if not run.recommended:
        lines.append(
            f"no trial of all pairs improves {tuning.objective} with every kept metric within its margin: choose other "
            "ranges"
        )
    elif "conservative" not in run.recommended:
        lines.append("no improvement has an interval that excludes 0 on the pairs to choose by: raise budget or pairs")
    if run.failed:
        lines.append(f"{len(run.failed)} clips could not be made or scored")
    return lines


def to_dict(run: TuningRun) -> dict[str, Any]:
    """Return everything as JSON values."""
    tuning, front = run.tuning, {trial.number for trial in run.front}
    return {
        "tuning": tuning.to_dict(),
        "clips": run.clips,
        "recommended": {
            name: {
                "trial": trial.number,
                "guidance": trial.spec,
                "command": command(tuning, trial),
                "held_out": standing_dict(run.held_out[trial.number]),
            }
            for name, trial in run.recommended.items()
        },
        "trials": [
            {
                "number": trial.number,
                "guidance": trial.spec,
                "values": trial.values,
                "clips": trial.clips,
                "outcome": trial.outcome,
                "reason": trial.reason,
                "pareto": trial.number in front,
                "compared": None if trial.standing is None else standing_dict(trial.standing),
            }
            for trial in run.trials
        ],
        "failed": {str(path): reason for path, reason in run.failed.items()},
        "notes": notes(run),
    }


def standing_dict(standing: Standing) -> dict[str, Any]:
    """Return a comparison with the reference as JSON values."""
    return {
        "metrics": {
            name: {"reference": pair.reference, "other": pair.other, "difference": asdict(pair.difference)}
            for name, pair in standing.pairs.items()
        },
        "keep": {guard_text(guard): standing.side(guard) for guard in standing.guards},
        "slack": standing.slack if standing.defined else None,
    }


def to_html(run: TuningRun) -> str:
    """Return the report as a page."""
    tuning = run.tuning
    margins = ", ".join(guard_text(guard) for guard in tuning.guards)
    about = [
        f"{tuning.sweep.model}, guidance {'+'.join(tuning.space.parts)} over "
        f"{' '.join(map(str, tuning.space.ranges))}; compared with {tuning.reference.guidance!r} ({REFERENCE}).",
        f"To improve: {tuning.objective}. To keep, with margins: {margins}.",
        *(f"{line[0].upper()}{line[1:]}." for line in notes(run)),
    ]
    sections = [Section(paragraphs=about)]
    if run.recommended:
        commands = [f"{name}: {command(tuning, trial)}" for name, trial in run.recommended.items()]
        meaning = [f"{name} ({LETTERS[name]}): {MEANING[name]}." for name in run.recommended]
        table = plain_table(*table_of(recommended_rows(run)))
        links = [("Report of the held-out clips, prompt by prompt", f"{HELD_OUT}/report.html")]
        sections.append(
            Section(
                title=f"Recommended, on {len(tuning.held_out)} held-out pairs",
                paragraphs=[PROTOCOL, *meaning],
                table=table,
                code="\n".join(commands),
                links=links,
            )
        )
    chart = front_chart(run)
    if chart is not None:
        sections.append(Section(title="Trials, on the pairs to choose by", paragraphs=[caption(tuning)], chart=chart))
    sections.append(Section(title="All trials", table=plain_table(*table_of(trial_rows(run)))))
    return page("Tuning", sections)


def table_of(rows: Sequence[dict[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of rows, whose keys may differ."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return header, [[row.get(name, "") for name in header] for row in rows]


def caption(tuning: Tuning) -> str:
    """Return what the picture shows."""
    return (
        f"To the right: improvement of {tuning.objective}{', points' if is_share(tuning.objective) else ''}. Upward: "
        "the smallest distance of a kept metric from its margin, in margins: 1 is no change, below 0 is outside. "
        "Line: Pareto front of the finished trials; grey: trials that were given up, on the clips that they have."
    )


def front_chart(run: TuningRun) -> Chart | None:
    """Return the picture of all trials and of their Pareto front; None without a trial that can be drawn."""
    shown = [trial for trial in run.trials if trial.standing is not None and trial.standing.defined]
    if not shown:
        return None
    points = {trial.number: gain(trial) for trial in shown}
    x_ends = min(0.0, *(x for x, _ in points.values())), max(0.0, *(x for x, _ in points.values()))
    y_ends = min(0.0, *(y for _, y in points.values())), max(1.0, *(y for _, y in points.values()))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return rescale(point[0], *x_ends, LEFT + 12, RIGHT - 12), rescale(point[1], *y_ends, BOTTOM - 12, TOP + 12)

    margin = place((0.0, 0.0))[1]
    lines = [Line((LEFT, BOTTOM), (RIGHT, BOTTOM), "axis"), Line((LEFT, TOP), (LEFT, BOTTOM), "axis")]
    lines.append(Line((LEFT, margin), (RIGHT, margin), "threshold", "margin of the kept metrics"))
    dots = [
        Dot(place(points[trial.number]), STYLES.get(trial.outcome, "same"), f"{trial.number}: {trial.spec}")
        for trial in shown
    ]
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        title=f"trials by improvement of {run.tuning.objective} and by what is kept",
        lines=lines,
        dots=dots,
        curves=[Curve([place(points[trial.number]) for trial in run.front], "curve other")],
        labels=[*axis_labels(run.tuning, x_ends, y_ends), *letters(run, points, place)],
    )


def axis_labels(tuning: Tuning, x_ends: tuple[float, float], y_ends: tuple[float, float]) -> list[Label]:
    """Return the values at the ends of the axes, and what they are."""
    sign = direction(tuning.objective)
    low, high = (signed(tuning.objective, sign * end) for end in x_ends)
    return [
        Label((LEFT + 12, BOTTOM + 16), "middle", low),
        Label((RIGHT - 12, BOTTOM + 16), "middle", high),
        Label(((LEFT + RIGHT) / 2, BOTTOM + 30), "middle", f"change of {tuning.objective}: better →"),
        Label((LEFT - 6, BOTTOM - 8), "end", f"{y_ends[0]:.2g}"),
        Label((LEFT - 6, TOP + 16), "end", f"{y_ends[1]:.2g}"),
        Label((LEFT + 6, TOP + 4), "start", "kept, in margins ↑"),
    ]


def letters(run: TuningRun, points: dict[int, tuple[float, float]], place: Any) -> list[Label]:
    """Return the letters of the recommended trials, next to their points."""
    by_point: dict[tuple[float, float], str] = {}
    for name, trial in run.recommended.items():
        point = place(points[trial.number])
        by_point[point] = by_point.get(point, "") + LETTERS[name]
    return [Label((x + 7, y - 6), "start", text, "letter") for (x, y), text in by_point.items()]
