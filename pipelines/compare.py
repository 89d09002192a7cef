"""compare(): the same prompt and seed under several guidances, side by side."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vidguide import Clip
from vidguide.clip import replace_whole
from vidguide.eval.oracle import Reading, read
from vidguide.pipelines.arms import parse_or_own
from vidguide.pipelines.generate import generate
from vidguide.pipelines.load import load
from vidguide.pipelines.models import SHIPPED

LABEL = 22  # pixels above each picture


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Clips by arm, in the order asked for; an arm is a guidance spec."""

    prompt: str
    negative_prompt: str | None
    clips: dict[str, Clip]

    def readings(self) -> dict[str, Reading] | None:
        """What the oracle sees in each clip; None where the clips are not of the shipped model's world."""
        first = next(iter(self.clips.values()))
        if first.provenance["model"] not in SHIPPED:
            return None
        return {arm: read(clip.frames) for arm, clip in self.clips.items()}

    def rows(self) -> list[dict[str, str]]:
        """One row per arm: seconds, what the guidance did, and what the oracle saw."""
        readings = self.readings()
        rows = []
        for arm, clip in self.clips.items():
            trace = clip.provenance["trace"]
            row = {"arm": arm, "seconds": f"{clip.provenance['seconds']:.2f}"}
            row["features changed"] = f"{trace['change']:.0%}" if "change" in trace else "-"
            if readings:
                scene = readings[arm].scene
                row |= {name: str(value or "none") for name, value in vars(scene).items()}
                row["well-formed"] = "yes" if readings[arm].well_formed else "no"
            rows.append(row)
        return rows

    def save(self, folder: str | Path) -> list[Path]:
        """Write comparison.mp4, contact-sheet.png, each arm's lossless clip, and index.html; returns the paths."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        sides = [labelled(clip.viewing(), arm) for arm, clip in self.clips.items()]
        wide = Clip(frames=np.concatenate(sides, axis=2), fps=next(iter(self.clips.values())).fps)
        written = [wide.save(target / "comparison.mp4"), target / "contact-sheet.png"]
        replace_whole(written[1], lambda temporary: Image.fromarray(self.contact_sheet()).save(temporary))
        for index, clip in enumerate(self.clips.values()):
            written.append(clip.save(target / f"arm-{index}.mkv"))
        page = target / "index.html"
        replace_whole(page, lambda temporary: temporary.write_text(self.html(), encoding="utf-8"))
        return [*written, page]

    def contact_sheet(self) -> np.ndarray:
        """A row per arm, frames spread evenly over the clip: `(H, W, 3)` uint8."""
        rows = []
        for arm, clip in self.clips.items():
            sheet = clip.contact_sheet()
            factor = max(900 // sheet.shape[1], 1)
            rows.append(labelled(sheet.repeat(factor, 0).repeat(factor, 1)[None], arm)[0])
        return np.concatenate(rows)

    def html(self) -> str:
        """A page that shows the video, the sheet and the table."""
        rows = self.rows()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
        body = "".join("<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
        negative = html.escape(self.negative_prompt or "-")
        return (
            "<!doctype html><meta charset=utf-8><title>vidguide compare</title>"
            "<style>body{font:15px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:left}"
            "video,img{max-width:100%}</style>"
            f"<h1>{html.escape(self.prompt)}</h1><p>negative prompt: <b>{negative}</b></p>"
            "<video src=comparison.mp4 autoplay loop muted controls></video>"
            f"<table><tr>{head}</tr>{body}</table><img src=contact-sheet.png alt='frames of each arm'>\n"
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
        specs: guidance specs, as :func:`vidguide.pipelines.arms.parse` takes them; `nag` by itself has the model's
            own parameters.

    Raises:
        ValueError, TypeError: before any step, by name.
    """
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
