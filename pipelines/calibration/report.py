"""The report of a calibration: tables, a heat map of layers by noise levels, JSON, and a settings file."""

import json
import math
from pathlib import Path

from rich.table import Table

from vidguide.eval.report.markdown_table import markdown_table
from vidguide.pipelines.calibration.heat_map import heat_map
from vidguide.pipelines.calibration.result import Calibration, Fit

LEGEND = (
    "w*: the scale of least squares of the model's error on the direction c - c~, with its 95% interval over clips; "
    "* excludes 0. EMAG and CFG have scale 1 + w*. share: of the squared error explained at all levels, 1e-4. |d|/|c|: "
    "size of the direction. Near 0 does not mean useless: CFG, PAG and SEG sharpen modes, which this cannot see."
)


def save(result: Calibration, folder: Path) -> list[Path]:
    """Write `calibration.json`, `.md` and `.png`, and `settings.json` into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("calibration.json", "calibration.md", "calibration.png", "settings.json")]
    paths[0].write_text(json.dumps(result.to_dict(), indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(result), encoding="utf-8")
    heat_map(result).save(paths[2], optimize=True)
    paths[3].write_text(json.dumps(result.settings_file(), indent=2) + "\n", encoding="utf-8")
    return paths


def header(result: Calibration) -> list[str]:
    """Return the names of the columns."""
    levels = [f"sigma {level.sigma:.2f}" for level in result.levels]
    return ["setting", "layers", *levels, "all levels", "share", "|d|/|c|"]


def rows(result: Calibration) -> list[list[str]]:
    """Return the cells of each setting, in the order of the candidates."""
    return [
        [
            candidate.group,
            candidate.layers,
            *(interval(each) for each in fits),
            number(1e4 * fits[-1].explained, ".1f"),
            number(fits[-1].size, ".3f"),
        ]
        for candidate, fits in zip(result.candidates, result.fits, strict=True)
    ]


def interval(fit: Fit) -> str:
    """Format w* and its interval, with a star where that excludes 0."""
    if math.isnan(fit.scale):
        return "-"
    return f"{fit.scale:+.3f} [{fit.low:+.3f}, {fit.high:+.3f}]{' *' if fit.points else ''}"


def number(value: float, form: str) -> str:
    """Format a number; "-" for not a number."""
    return "-" if math.isnan(value) else format(value, form)


def best_settings(result: Calibration) -> list[str]:
    """Return a line per guidance: its best setting, or that none points to the truth."""
    lines = [
        f"{name}: {', '.join(f'{key}={value}' for key, value in result.parameters(index).items())}"
        for name, index in result.best().items()
    ]
    return lines or ["no setting points to the truth at all levels together"]


def table(result: Calibration) -> Table:
    """Return the table for a terminal: w* at each level, and its interval at all of them."""
    title = f"{result.model}: {result.products.shape[2]} clips, {result.steps} steps"
    printed = Table(title=title, box=None, padding=(0, 1), pad_edge=False)
    printed.add_column("setting, layers", overflow="fold")
    for name in header(result)[2:]:
        printed.add_column(name, justify="right", no_wrap=True)
    previous = None
    for candidate, fits, cells in zip(result.candidates, result.fits, rows(result), strict=True):
        if candidate.group != previous:
            printed.add_row(candidate.group, style="bold")
        short = [number(fit.scale, "+.3f") + "*" * abs(fit.points) for fit in fits[:-1]]
        printed.add_row(f"  {candidate.layers}", *short, *cells[-3:])
        previous = candidate.group
    return printed


def markdown(result: Calibration) -> str:
    """Return the table, the best settings and the notes in Markdown."""
    lines = [markdown_table(header(result), rows(result)), ""]
    lines += [f"{result.model}: {result.clips}; noise seed {result.seed}; {result.steps} steps. {LEGEND}", ""]
    lines += ["Settings that explain most of the error and point to the truth:", ""]
    lines += [f"- {line}" for line in (*best_settings(result), *result.notes)]
    return "\n".join(lines) + "\n"
