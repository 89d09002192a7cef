"""What the metrics see in a clip: the oracle and the encoder of the shipped models' world, and motion."""

from vidguide.clip import Clip
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.scoring.score import measure
from vidguide.eval.scoring.summary import number

SHOWN = (  # metrics
    *("world.attributes", "world.negative_present", "world.well_formed", "dual.similarity"),
    *("temporal.warp_error", "guard.motion"),
)


def observe(clip: Clip, prompt: str, negative_prompt: str | None) -> list[tuple[str, str]]:
    """Return what the oracle read in a clip, then the metrics that are defined for it, as name and text."""
    sample = Sample(clip, prompt, negative_prompt)
    rows = {name: measure(METRICS[name], sample) for name in SHOWN}
    reading = rows["world.attributes"].get("details", {}).get("seen")
    lines = [("the oracle read", " ".join(str(value or "?") for value in reading.values()))] if reading else []
    return lines + [(name, number(row["value"])) for name, row in rows.items() if row["status"] == "ok"]
