"""Shared code of the benchmarks: intervals, tables and result files."""

import json
import platform
import statistics
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vidguide.eval.report.markdown_table import markdown_table
from vidguide.eval.scoring.intervals import share_interval
from vidguide.eval.scoring.statistics import estimate_difference

RESULTS = Path(__file__).parent / "results"


class Summary(NamedTuple):
    """Median and range of a quantity over rounds."""

    median: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The three, for a table."""
        digits = 2 if self.median < 10 else 1
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def summary(values: Sequence[float]) -> Summary:
    """Return the median and the range of values."""
    return Summary(statistics.median(values), min(values), max(values))


def ratios(times: Sequence[float], base: Sequence[float]) -> Summary:
    """Return the median and the range of the ratios of times to those of the same round."""
    return summary([time / reference for time, reference in zip(times, base, strict=True)])


def add_output(parser: ArgumentParser) -> None:
    """Add the option of a folder for results."""
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")


def share(successes: int, total: int) -> tuple[float, float, float]:
    """Return a share and its exact 95% interval (Clopper-Pearson)."""
    return (successes / total, *share_interval(successes, total))


def paired(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95% interval."""
    mean, _ = estimate_difference(differences)
    if mean.mean is None or mean.low is None or mean.high is None:
        raise ValueError(f"differences={differences!r}: an interval needs at least six values")
    return mean.mean, mean.low, mean.high


def percent(triple: tuple[float, float, float]) -> str:
    """Format a share or difference with its interval, in percent."""
    value, low, high = triple
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def table(rows: list[dict[str, str]]) -> str:
    """Format rows with the same keys as a Markdown table."""
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows]) + "\n"


def machine() -> dict[str, Any]:
    """Return versions and device of the measurement."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "transformers": version("transformers"),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def write(name: str, markdown: str, data: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write a result as Markdown and as JSON, and print the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(markdown)
    (folder / f"{name}.json").write_text(json.dumps({**data, "machine": machine()}) + "\n")
    print(markdown)
