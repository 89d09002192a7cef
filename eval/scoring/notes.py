"""The sentences that stand beside the numbers of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from vidguide.eval.scoring.statistics import ENOUGH_PROMPTS, Paired

Row = Mapping[str, Any]
PROTOCOL = (
    "The unit is the prompt; seeds are averaged within it, and both arms share prompts and seeds. Intervals are 95% by "
    "bootstrap over prompts (BCa), win rates have Wilson's. A gain needs an interval without 0 and p under 0.05 by "
    "flipping signs, corrected by Holm over the primary metrics ({primary}); others are exploratory. It is confounded "
    "where motion falls by 5%, lasting detail by 10%, or frozen frames or ill-formed clips rise by 0.05."
)


def clips(count: int) -> str:
    """`1 clip`, `2 clips`."""
    return f"{count} clip{'s' if count != 1 else ''}"


def remarks(pairs: Sequence[Paired], failed: Mapping[str, int], floored: bool) -> list[str]:
    """The sentences that must stand beside the numbers."""
    notes = []
    prompts = max((pair.difference.prompts for pair in pairs), default=0)
    if not prompts:
        notes.append("No clip of one arm has a partner of the same prompt and seed in the other: nothing is compared.")
    elif prompts < ENOUGH_PROMPTS:
        notes.append(f"Smoke test: prompts: {prompts}; under {ENOUGH_PROMPTS} this is no evidence.")
    for arm, count in failed.items():
        if count:
            notes.append(f"{clips(count)} of {arm} could not be scored; left out of both arms.")
    unpaired = max((pair.unpaired for pair in pairs), default=0)
    if unpaired:
        notes.append(f"Left out, as the other arm has none of the same prompt and seed: {clips(unpaired)}.")
    if not floored:
        notes.append("The noise floor was not measured: make one arm twice and give it as --again.")
    return notes


def repeats(arms: Mapping[str, Sequence[Row]]) -> list[str]:
    """A sentence for each arm in which several clips share prompt and seed."""
    notes = []
    for arm, rows in arms.items():
        known = {(row["clip"], row["prompt_id"], row["seed"]) for row in rows}
        extra = len(known) - len({(prompt, seed) for _, prompt, seed in known})
        if extra:
            notes.append(
                f"{clips(extra)} of {arm} of the same prompt and seed as another of it: their values are averaged."
            )
    return notes
