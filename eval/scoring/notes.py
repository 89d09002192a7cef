"""Notes: the sentences that accompany the numbers of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from vidguide.eval.scoring.intervals import prompts_for_p
from vidguide.eval.scoring.statistics import MIN_PROMPTS, PairedComparison

Row = Mapping[str, Any]
PROTOCOL = (
    "The unit is the prompt; seeds are averaged within it, and both arms share prompts and seeds. p-values are by sign "
    "flips of the differences, and 95% intervals are those flips' inversion: an interval excludes 0 exactly if the "
    "uncorrected p is at most 0.05. Shares have exact intervals (Clopper-Pearson; Fay and Lumbard for paired shares). "
    "An improvement needs p <= 0.05, corrected by Holm over the primary metrics ({primary}); other metrics are "
    "exploratory, corrected by Benjamini and Hochberg. An improvement is confounded if the whole interval of a guard "
    "lies outside its margin, and unconfounded only if it lies inside; otherwise the guard is undecided. Margins of "
    "steadiness: 5% less motion or lasting detail, 5% of contrast, 10% of brightness or saturation, jerk by 1 pixel "
    "per frame squared, and 0.05 less of tracked pixels, or more of frozen frames, ill-formed clips, cuts and flashes; "
    "of the avoidance of a negative prompt: 0.05 fewer well-formed clips, readable attributes or attributes asked for."
)

VOTES = (
    " Votes are no exception to the unit, but raters are a second sample: interval and p-value of preference.human, "
    "which agree, are for further prompts and raters, from the variances of both and of the noise."
)

SETS = (
    "Arms as sets of clips, exploratory. A distance between the arms has no better direction; its p-value, of the "
    "kernel distance, is that of exchanging the arms within prompts. Kernel distances are unbiased, and may be "
    "negative; the bias of the Fréchet distance is removed to order 1/n by the jackknife over prompts, from which all "
    "intervals derive, and between arms it is given only for more prompts than features. Intervals of precision and "
    "recall leave out the uncertainty of the manifold."
)


def count_clips(count: int) -> str:
    """Return `1 clip`, `2 clips` and so on."""
    return f"{count} clip{'s' if count != 1 else ''}"


def comparison_notes(
    pairs: Sequence[PairedComparison],
    failed: Mapping[str, int],
    different_clips: Mapping[str, str],
    has_noise_floor: bool,
) -> list[str]:
    """Return notes on sample size, failed, unpaired and different clips, and the noise floor.

    Args:
        pairs: one comparison per metric.
        failed: number of failed clips by arm.
        different_clips: properties in which paired clips differ, with an example.
        has_noise_floor: whether the noise floor was measured.
    """
    notes = sample_size_notes(max((pair.difference.prompts for pair in pairs), default=0))
    for name, example in different_clips.items():
        notes.append(f"The clips differ in {name}: {example}. Make both arms with the same settings to compare them.")
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
    notes = []
    if prompts < MIN_PROMPTS:
        notes.append(f"Smoke test: prompts: {prompts}; fewer than {MIN_PROMPTS} are no evidence.")
    if prompts < prompts_for_p():
        notes.append(f"No difference can be significant: p < 0.05 needs at least {prompts_for_p()} prompts.")
    return notes


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
