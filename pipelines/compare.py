"""compare(): one prompt and seed with several guidances, side by side."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vidguide.clip import Clip, replace_whole
from vidguide.eval.clips.entries import Entry
from vidguide.eval.evaluate import assess, require, write
from vidguide.eval.report.html_page import Opening, Player
from vidguide.eval.report.loops import jpeg
from vidguide.eval.scoring.summary import Summary, number
from vidguide.pipelines.generate import generate
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.request.guidance_spec import parse_unless_default
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.request.validation import check_setup_of_guidances
from vidguide.pipelines.request.visual_inputs import INPUTS

LABEL_HEIGHT = 22  # pixels
MAX_EMBEDDED = 8 << 20  # bytes of a video in the report
SHEET_WIDTH = 900  # pixels to which contact sheets are enlarged, by a whole factor
COLUMNS = {  # of the table: column name, and the metric it shows; the report has all metrics
    "as asked": "world.attributes",
    "unwanted": "world.negative_present",
    "well-formed": "world.well_formed",
    "similarity": "dual.similarity",
    "warping error": "temporal.warp_error",
    "motion": "guard.motion",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Clips of one prompt and seed.

    Attributes:
        prompt, negative_prompt: texts of every clip.
        clips: clip by guidance spec; the first is the reference.
    """

    prompt: str
    negative_prompt: str | None
    clips: dict[str, Clip]

    def save(self, folder: str | Path) -> list[Path]:
        """Write comparison.mp4 (silent), contact-sheet.png and each clip, lossless; return the paths.

        A clip with audio is also written as .mp4, which browsers play.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        labelled = [add_label(clip.upscaled_frames(), spec) for spec, clip in self.clips.items()]
        video = Clip(frames=np.concatenate(labelled, axis=2), fps=next(iter(self.clips.values())).fps)
        paths = [video.save(target / "comparison.mp4"), target / "contact-sheet.png"]
        replace_whole(paths[1], lambda temporary: Image.fromarray(self.contact_sheet()).save(temporary))
        lossless = self.lossless(target)
        playable = [clip.save(path.with_suffix(".mp4")) for path, clip in lossless if clip.audio is not None]
        return [*paths, *playable, *(clip.save(path) for path, clip in lossless)]

    def lossless(self, folder: Path) -> list[tuple[Path, Clip]]:
        """Return the path of each clip's lossless file, and the clip."""
        return [(folder / f"arm-{index}.mkv", clip) for index, clip in enumerate(self.clips.values())]

    def evaluate(self, folder: str | Path) -> Summary:
        """Score the saved clips, compare each with the first, and write the report.

        Args:
            folder: folder that :meth:`save` has written to.
        """
        target = Path(folder)
        entries = [
            Entry(
                clip=path,
                arm=spec,
                prompt_id=self.prompt,
                seed=clip.provenance["seed"],
                prompt=self.prompt,
                eval_prompt=self.prompt,
                negative_prompt=self.negative_prompt,
            )
            for spec, (path, clip) in zip(self.clips, self.lossless(target), strict=True)
        ]
        summary = assess(entries, list(self.clips), target)
        write(summary, target, self.opening(target))
        return summary

    def rows(self, summary: Summary) -> list[dict[str, str]]:
        """Return one row of text cells per clip: seconds, change of the features, and the metrics of `COLUMNS`."""
        rows = [self.row(spec, clip, summary) for spec, clip in self.clips.items()]
        names = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name, "") for name in names} for row in rows]

    def row(self, spec: str, clip: Clip, summary: Summary) -> dict[str, str]:
        """Return the text cells of one clip; metrics that could not be computed are left out."""
        change = clip.provenance["trace"].get("change")  # not measured where only a second pass is perturbed
        audio_change = clip.provenance["trace"].get("audio_change")
        row = {"arm": spec, "seconds": f"{clip.provenance['seconds']:.2f}"}
        row["features changed"] = "-" if change is None else f"{change:.0%}"
        if audio_change is not None:
            row["audio features changed"] = f"{audio_change:.0%}"
        scores = {score["metric"]: score for score in summary.rows if score["arm"] == spec and score["status"] == "ok"}
        if attributes := scores.get("world.attributes"):
            row["seen"] = " ".join(str(value) for value in attributes["details"]["seen"].values() if value)
        return row | {name: number(scores[id_]["value"]) for name, id_ in COLUMNS.items() if id_ in scores}

    def contact_sheet(self) -> np.ndarray:
        """Return evenly spaced frames, one row per clip: `(H, W, 3)` uint8."""
        rows = []
        for spec, clip in self.clips.items():
            sheet = clip.contact_sheet()
            factor = max(SHEET_WIDTH // sheet.shape[1], 1)
            rows.append(add_label(sheet.repeat(factor, 0).repeat(factor, 1)[None], spec)[0])
        return np.concatenate(rows)

    def opening(self, folder: Path) -> Opening:
        """Return what the report shows first: the texts, the video side by side, a player for each clip with audio, and
        the contact sheet.

        Args:
            folder: folder that :meth:`save` has written to.
        """
        players = [Player(source=video_source(folder / "comparison.mp4"))]
        for (spec, clip), (path, _) in zip(self.clips.items(), self.lossless(folder), strict=True):
            if clip.audio is not None:
                source = video_source(path.with_suffix(".mp4"))
                players.append(Player(source=source, caption=spec, silent=False))
        sheet = Player(source=jpeg(self.contact_sheet()), caption="frames of each arm")
        return Opening(prompt=self.prompt, negative_prompt=self.negative_prompt, players=players, images=[sheet])


def video_source(path: Path) -> str:
    """Return a video as a data URI; the name of a file of more than `MAX_EMBEDDED` bytes, next to the report."""
    if path.stat().st_size > MAX_EMBEDDED:
        return path.name
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def add_label(frames: np.ndarray, text: str) -> np.ndarray:
    """Add a line of text above frames: `(F, H, W, 3)` uint8 to `(F, LABEL_HEIGHT + H, W, 3)`."""
    bar = Image.new("RGB", (frames.shape[2], LABEL_HEIGHT), "white")
    ImageDraw.Draw(bar).text((4, 4), text, fill="black")
    strip = np.broadcast_to(np.asarray(bar), (len(frames), LABEL_HEIGHT, frames.shape[2], 3))
    return np.concatenate([strip, frames], axis=1)


def compare(prompt: str, specs: list[str], *, negative_prompt: str | None = None, **settings: Any) -> Comparison:
    """Generate one clip per guidance spec with the same pipeline, prompt and seed.

    Args:
        prompt, negative_prompt, settings: as for :func:`vidguide.generate`.
        specs: guidance specs, see :func:`vidguide.pipelines.request.guidance_spec.parse`; plain `nag` has the
            parameters of the model.

    Raises:
        ValueError, TypeError, ImportError: before any step, by name.
    """
    require()
    if not specs:
        raise ValueError("guidance=[]: must have at least one spec, such as none or nag")
    guidances = {spec: parse_unless_default(spec, negative_prompt) for spec in specs}
    placement = {name: settings.pop(name, None) for name in ("device", "dtype", "revision")}
    model, setup = settings.pop("model", "tiny"), settings.pop("setup", None)
    given: dict[str, Any] = {name: settings.get(name) is not None for name in INPUTS}
    for guidance in guidances.values():
        check_setup_of_guidances(guidance or (), setup or Setup())
    pipe = load(model, setup=setup, progress=settings.get("progress", True), **given, **placement)
    shared = dict(model=model, negative_prompt=negative_prompt, pipe=pipe, **settings)
    clips = {spec: generate(prompt, guidance=guidance, **shared) for spec, guidance in guidances.items()}
    return Comparison(prompt=prompt, negative_prompt=negative_prompt, clips=clips)
