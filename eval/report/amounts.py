"""Values of metrics as text: shares in percent, their differences in points, everything else as numbers."""

from collections.abc import Sequence

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.scoring.noninferiority import MANY
from vidguide.eval.scoring.statistics import Estimate
from vidguide.eval.scoring.summary import number

SUBJECTS = {  # what a metric is about, in a sentence
    "preference.human": "human preference",
    "world.negative_present": "unwanted attributes",
    "world.attributes": "asked-for attributes",
    "temporal.warp_error": "warping error",
}
SHARES = ("share", "0 or 1")  # beginnings of the units of shares


def subject(metric: str) -> str:
    """Return what a metric is about; its id where no shorter text is declared."""
    return SUBJECTS.get(metric, metric)


def is_share(metric: str) -> bool:
    """Return whether values of a metric are shares of 1."""
    return METRICS[metric].unit.startswith(SHARES)


def amount(metric: str, value: float | None) -> str:
    """Format a value of a metric; None becomes empty."""
    return f"{100 * value:.1f}%" if value is not None and is_share(metric) else number(value)


def signed(metric: str, value: float) -> str:
    """Format a difference of a metric with its sign and without its unit; a rounded zero has no sign."""
    text = f"{100 * value:+.1f}" if is_share(metric) else f"{value:+.3g}"
    return text[1:] if not float(text) else text


def change(metric: str, difference: Estimate) -> str:
    """Format a difference with its 95% interval: `-11.3 points [-15.6, -7.0]`; empty without a difference."""
    if difference.mean is None:
        return ""
    return signed(metric, difference.mean) + (" points" if is_share(metric) else "") + interval(metric, difference)


def interval(metric: str, difference: Estimate) -> str:
    """Format an interval as ` [low, high]`; empty where there is none."""
    if difference.low is None or difference.high is None:
        return ""
    return f" [{signed(metric, difference.low)}, {signed(metric, difference.high)}]"


def format_needed(prompts: int | None) -> str:
    """Format a number of prompts that is needed; None becomes empty."""
    if prompts is None:
        return ""
    return str(prompts) if prompts <= MANY else f"more than {MANY}"


def join_names(names: Sequence[str]) -> str:
    """Return names as `a`, `a and b` or `a, b and c`."""
    return " and ".join([part for part in (", ".join(names[:-1]), *names[-1:]) if part])
