"""Notes: the sentences that accompany the numbers of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from vidguide.eval.scoring.statistics import MIN_PROMPTS, PairedComparison

Row = Mapping[str, Any]
PROTOCOL = (
    "The unit is the prompt; seeds are averaged within it, and both arms share prompts and seeds. Intervals are 95%, "
    "by bootstrap over prompts (BCa); win rates have Wilson intervals. An improvement needs an interval without 0 and "
    "p < 0.05 by sign-flip permutation, corrected by Holm over the primary metrics ({primary}); other metrics are "
    "exploratory. An improvement of steadiness is confounded if motion or lasting detail falls by 5%, if contrast "
    "changes by 5% or brightness or saturation by 10%, if jerk rises by 1 pixel per frame squared, or if the tracked "
    "share falls or the share of frozen frames, of ill-formed clips or the number of cuts and flashes rises by 0.05; "
    "avoidance of a negative prompt, if the share of well-formed clips, of readable attributes or of attributes asked "
    "for falls by 0.05."
)


def count_clips(count: int) -> str:
    """Return `1 clip`, `2 clips` and so on."""
    return f"{count} clip{'s' if count != 1 else ''}"


def comparison_notes(pairs: Sequence[PairedComparison], failed: Mapping[str, int], has_noise_floor: bool) -> list[str]:
    """Return notes on sample size, failed and unpaired clips, and the noise floor.

    Args:
        pairs: one comparison per metric.
        failed: number of failed clips by arm.
        has_noise_floor: whether the noise floor was measured.
    """
    notes = sample_size_notes(max((pair.difference.prompts for pair in pairs), default=0))
    for arm, count in failed.items():
        if count:
            notes.append(f"{count_clips(count)} of {arm} could not be scored; left out of both arms.")
    unpaired = max((pair.unpaired for pair in pairs), default=0)
    if unpaired:
        notes.append(
            f"Left out, because the other arm has no clip of the same prompt and seed: {count_clips(unpaired)}."
        )
    if not has_noise_floor:
        notes.append("The noise floor was not measured: generate the reference arm twice and pass it as --again.")
    return notes


def sample_size_notes(prompts: int) -> list[str]:
    """Return a note if nothing is paired, or if there are too few prompts for evidence."""
    if not prompts:
        return ["No clip has a partner of the same prompt and seed in the other arm: nothing is compared."]
    if prompts < MIN_PROMPTS:
        return [f"Smoke test: prompts: {prompts}; fewer than {MIN_PROMPTS} are no evidence."]
    return []


def repetition_notes(arms: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return a note for each arm in which several clips share prompt and seed."""
    notes = []
    for arm, rows in arms.items():
        clips = {(row["clip"], row["prompt_id"], row["seed"]) for row in rows}
        extra = len(clips) - len({(prompt, seed) for _, prompt, seed in clips})
        if extra:
            notes.append(
                f"{count_clips(extra)} of {arm} with the same prompt and seed as another: values are averaged."
            )
    return notes
