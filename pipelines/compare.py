"""compare(): the same prompt and seed under several guidances, side by side."""

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vidguide import Clip
from vidguide.clip import replace_whole
from vidguide.eval.clips.entries import Entry
from vidguide.eval.evaluate import assess, require, write
from vidguide.eval.report.contact_sheets import data_uri
from vidguide.eval.scoring.summary import Summary, number
from vidguide.pipelines.generate import generate
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.request.guidance_spec import parse_or_own

LABEL = 22  # pixels above each picture
SHOWN = {  # of the evaluation, in the short table; the report has all
    "as asked": "world.attributes",
    "unwanted": "world.negative_present",
    "well-formed": "world.well_formed",
    "similarity": "dual.similarity",
    "warping error": "temporal.warp_error",
    "motion": "guard.motion",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Clips by arm, in the order asked for; an arm is a guidance spec."""

    prompt: str
    negative_prompt: str | None
    clips: dict[str, Clip]

    def save(self, folder: str | Path) -> list[Path]:
        """Write comparison.mp4, contact-sheet.png and each arm's lossless clip; returns the paths."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        sides = [labelled(clip.viewing(), arm) for arm, clip in self.clips.items()]
        wide = Clip(frames=np.concatenate(sides, axis=2), fps=next(iter(self.clips.values())).fps)
        written = [wide.save(target / "comparison.mp4"), target / "contact-sheet.png"]
        replace_whole(written[1], lambda temporary: Image.fromarray(self.contact_sheet()).save(temporary))
        return [*written, *(clip.save(path) for path, clip in self.lossless(target))]

    def lossless(self, folder: Path) -> list[tuple[Path, Clip]]:
        """Each arm's clip and the path of its lossless file."""
        return [(folder / f"arm-{index}.mkv", clip) for index, clip in enumerate(self.clips.values())]

    def evaluate(self, folder: str | Path, tell: Callable[[str], None] = lambda _: None) -> Summary:
        """Score the saved clips in the evaluation room, the first arm being the reference, and write its report there.

        Args:
            folder: where :meth:`save` has written.
            tell: called before each clip with its path.
        """
        target = Path(folder)
        listed = [
            Entry(
                clip=path,
                arm=arm,
                prompt_id=self.prompt,
                seed=clip.provenance["seed"],
                prompt=self.prompt,
                eval_prompt=self.prompt,
                negative_prompt=self.negative_prompt,
            )
            for arm, (path, clip) in zip(self.clips, self.lossless(target), strict=True)
        ]
        summary = assess(listed, list(self.clips), target, tell)
        write(summary, target, self.head())
        return summary

    def rows(self, summary: Summary) -> list[dict[str, str]]:
        """One row per arm: seconds, what the guidance did, and of its evaluation what is most asked for."""
        rows = []
        for arm, clip in self.clips.items():
            trace = clip.provenance["trace"]
            row = {"arm": arm, "seconds": f"{clip.provenance['seconds']:.2f}"}
            row["features changed"] = f"{trace['change']:.0%}" if trace else "-"
            found = {one["metric"]: one for one in summary.rows if one["arm"] == arm and one["status"] == "ok"}
            if seen := found.get("world.attributes"):
                row["seen"] = " ".join(str(value) for value in seen["details"]["seen"].values() if value)
            rows.append(row | {name: number(found[id_]["value"]) for name, id_ in SHOWN.items() if id_ in found})
        return [{name: row.get(name, "") for one in rows for name in one} for row in rows]

    def contact_sheet(self) -> np.ndarray:
        """A row per arm, frames spread evenly over the clip: `(H, W, 3)` uint8."""
        rows = []
        for arm, clip in self.clips.items():
            sheet = clip.contact_sheet()
            factor = max(900 // sheet.shape[1], 1)
            rows.append(labelled(sheet.repeat(factor, 0).repeat(factor, 1)[None], arm)[0])
        return np.concatenate(rows)

    def head(self) -> str:
        """What the report shows first: the texts, the video side by side, and frames of each arm."""
        negative = f"; negative prompt: <b>{html.escape(self.negative_prompt)}</b>" if self.negative_prompt else ""
        return (
            f"<p><b>{html.escape(self.prompt)}</b>{negative}</p>"
            "<video src=comparison.mp4 autoplay loop muted controls></video>"
            f'<figure><img alt="frames of each arm" src="{data_uri(self.contact_sheet())}"></figure>'
        )


def labelled(frames: np.ndarray, text: str) -> np.ndarray:
    """Frames `(F, H, W, 3)` with a line of text above them."""
    bar = Image.new("RGB", (frames.shape[2], LABEL), "white")
    ImageDraw.Draw(bar).text((4, 4), text, fill="black")
    strip = np.broadcast_to(np.asarray(bar), (len(frames), LABEL, frames.shape[2], 3))
    return np.concatenate([strip, frames], axis=1)


def compare(prompt: str, specs: list[str], *, negative_prompt: str | None = None, **settings: Any) -> Comparison:
    """Generate a clip per guidance spec with one pipeline, one prompt and one seed.

    Args:
        prompt, negative_prompt, settings: as for :func:`vidguide.generate`.
        specs: guidance specs, as `guidance_spec.parse` takes them; `nag` by itself has the model's
            own parameters.

    Raises:
        ValueError, TypeError, ImportError: before any step, by name.
    """
    require()
    if not specs:
        raise ValueError("guidance=[]: give at least one spec to compare, such as none and nag")
    arms = {spec: parse_or_own(spec, negative_prompt) for spec in specs}
    placing = {name: settings.pop(name, None) for name in ("device", "dtype", "revision")}
    model, offload = settings.pop("model", "tiny"), settings.pop("offload", "auto")
    given, progress = settings.get("image") is not None, settings.get("progress", True)
    pipe = load(model, offload=offload, image=given, progress=progress, **placing)
    clips = {
        spec: generate(prompt, model=model, negative_prompt=negative_prompt, guidance=guidances, pipe=pipe, **settings)
        for spec, guidances in arms.items()
    }
    return Comparison(prompt=prompt, negative_prompt=negative_prompt, clips=clips)
