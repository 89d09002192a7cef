"""The clips of a sweep or an evaluation by prompt, seed and variant, with their values, and their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidguide.eval.clips.entries import Entry, entries, to_row
from vidguide.eval.report.clip_figures import Rows, find_worst, metric_of_curve
from vidguide.eval.scoring import results
from vidguide.eval.scoring.statistics import Key

DIFFERENCE, VALUE, PROMPT = "paired difference", "value", "prompt"
ORDERS = (DIFFERENCE, VALUE, PROMPT)
NO_METRIC = "clip"  # key of the row of a clip that was not scored


@dataclass(kw_only=True)
class Gallery:
    """Clips to browse.

    Attributes:
        arms: names of the variants; the first is the reference.
        clips: rows by metric of each variant, by prompt and seed.
        prompts: text by prompt and seed.
    """

    arms: list[str]
    clips: dict[Key, dict[str, Rows]] = field(default_factory=dict)
    prompts: dict[Key, str] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that any clip has a value of."""
        every = (row for clips in self.clips.values() for rows in clips.values() for row in rows.values())
        return list(dict.fromkeys(row["metric"] for row in every if row.get("value") is not None))

    def value(self, key: Key, arm: str, metric: str) -> float | None:
        """Return the value of a clip; None where it has none."""
        row = self.clips[key].get(arm, {}).get(metric)
        return None if row is None else row.get("value")

    def difference(self, key: Key, arm: str, metric: str) -> float | None:
        """Return a clip's value minus that of the reference; None where either has none."""
        value, reference = self.value(key, arm, metric), self.value(key, self.arms[0], metric)
        return None if value is None or reference is None else value - reference

    def sorted_keys(self, order: str, metric: str, arm: str, ascending: bool) -> list[Key]:
        """Return prompts and seeds in an order; those without a value last.

        Args:
            order: one of `ORDERS`.
            metric: whose values are compared.
            arm: whose clips they are of.
            ascending: smallest first.
        """
        if order == PROMPT:
            return list(self.clips) if ascending else list(self.clips)[::-1]
        measure = self.difference if order == DIFFERENCE else self.value
        numbers = {key: measure(key, arm, metric) for key in self.clips}
        defined = [key for key in self.clips if numbers[key] is not None]
        return sorted(defined, key=lambda key: numbers[key] or 0.0, reverse=not ascending) + [
            key for key in self.clips if numbers[key] is None
        ]

    def worst_frame(self, key: Key, arms: Sequence[str], metric: str) -> tuple[int, str]:
        """Return the frame with the worst value in any of these variants, and the metric; 0 and none where there are
        no values by frame."""
        shown = [self.clips[key][arm] for arm in arms if arm in self.clips[key]]
        if not shown or any(NO_METRIC in rows for rows in shown):
            return 0, ""
        curve = metric_of_curve(shown, metric)
        worst = find_worst(shown, curve)
        return (0, "") if worst is None else (worst.frame, curve)


def read_gallery(folder: Path) -> Gallery:
    """Return the clips of a folder: those of its results, else the clips in it.

    Raises:
        ValueError, OSError: it has neither, or vidguide did not write the results.
    """
    scored = (folder / results.FINAL).is_file()
    rows = results.load(folder) if scored else [{**to_row(each), "metric": NO_METRIC} for each in clips_in(folder)]
    rows = [row for row in rows if row.get("status") != "failed"]
    if not rows:
        raise ValueError(f"folder={str(folder)!r}: has no clips and no results of an evaluation")
    gallery = Gallery(arms=list(dict.fromkeys(row["arm"] for row in rows)))
    for row in rows:
        key = row["prompt_id"], row["seed"]
        gallery.prompts.setdefault(key, str(row.get("eval_prompt") or row["prompt_id"]))
        gallery.clips.setdefault(key, {}).setdefault(row["arm"], {}).setdefault(row["metric"], row)
    return gallery


def clips_in(folder: Path) -> list[Entry]:
    """Return the clips of a sweep that was not scored, or of another folder; each folder of them is a variant."""
    clips = folder / "clips" if (folder / "clips").is_dir() else folder
    folders = [each for each in sorted(clips.iterdir()) if each.is_dir()]
    return entries(folders or [clips])


def clip_file(rows: Rows, folder: Path) -> Path:
    """Return the file of a clip; of a folder that was moved, the one in the same place under the new folder.

    Raises:
        FileNotFoundError: there is none.
    """
    stated = Path(next(iter(rows.values()))["clip"])
    for path in (stated, folder.joinpath(*stated.parts[-3:])):
        if path.is_file():
            return path
    raise FileNotFoundError(f"clip={str(stated)!r}: no such file")


def describe_values(gallery: Gallery, key: Key, arm: str, metric: str) -> str:
    """Return the value of a clip and its difference from the reference, as text."""
    value, difference = gallery.value(key, arm, metric), gallery.difference(key, arm, metric)
    if value is None:
        return ""
    return f"{value:.4g}" + ("" if arm == gallery.arms[0] or difference is None else f" ({difference:+.4g})")


def values_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a clip's JSON by name: sampling settings, and `NAG.tau` of each guidance."""
    settings = ("steps", "height", "width", "frames", "fps", "guidance_scale", "model")
    named = {name: parameters[name] for name in settings if name in parameters}
    for guidance in parameters.get("guidance", []):
        named |= {f"{guidance['name']}.{name}": value for name, value in guidance.items() if name != "name"}
    return named
