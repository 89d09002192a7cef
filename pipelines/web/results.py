"""The results of the tab *Try* as HTML: clips in sync, and what is known about each."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vidguide.clip import Clip
from vidguide.pipelines.web.code_text import command_text, python_text
from vidguide.pipelines.web.observations import observe
from vidguide.pipelines.web.players import PAGES, Player, players
from vidguide.pipelines.web.public_files import PublicFiles
from vidguide.pipelines.web.request import TryRequest, Variant
from vidguide.pipelines.web.sampling import Finished, Progress


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the page shows of one clip.

    Attributes:
        player: the clip.
        fps: of the clip. frames: their number.
        observations: name and text of what the metrics see.
        trace: data URI of the heat map.
        notes: warnings.
        python, command: that make the clip again; a command may not exist, and says why.
    """

    player: Player
    fps: float
    frames: int
    observations: list[tuple[str, str]]
    trace: str
    notes: tuple[str, ...]
    python: str
    command: str


def make_result(files: PublicFiles, request: TryRequest, done: Finished) -> Result:
    """Return the result of a clip; its files can be fetched from then on."""
    variant, clip = request.variants[done.variant], done.clip
    svg = done.trace.plot().svg
    return Result(
        player=save(files, clip, f"clip-{done.variant + 1}", label(variant, done.variant)),
        fps=clip.fps,
        frames=len(clip.frames),
        observations=observe(clip, request.prompt, request.negative_prompt),
        trace="data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(),
        notes=done.notes,
        python=python_text(request, variant),
        command=command_or_reason(request, variant),
    )


def label(variant: Variant, number: int) -> str:
    """Return the label of a variant: its number and guidances."""
    names = "+".join(type(each).__name__ for each in variant.guidances) or "no guidance"
    return f"{number + 1}: {names}"


def save(files: PublicFiles, clip: Clip, name: str, text: str) -> Player:
    """Write a clip for the page: MP4 to play, MKV without loss, and its JSON."""

    def write(path: Path) -> None:
        clip.save(path)
        clip.save(path.with_suffix(".mkv"))

    path = files.add(f"{name}.mp4", write)
    links = [(kind, files.url(path.with_suffix(f".{kind.lower()}"))) for kind in ("MP4", "MKV", "JSON")]
    note = f"{clip.provenance['seconds']:.1f} s, seed {clip.provenance['seed']}"
    return Player(video=files.url(path), label=text, note=note, links=links, sound=clip.audio is not None)


def command_or_reason(request: TryRequest, variant: Variant) -> str:
    """Return the command that makes a clip; a comment with the reason where there is none."""
    try:
        return command_text(request, variant)
    except ValueError as error:
        return f"# {error}\n".replace("\n", " ").strip() + "\n"


def results_html(results: Mapping[int, Result]) -> str:
    """Return the clips of a request in sync, and the details of each."""
    if not results:
        return ""
    ordered = [results[number] for number in sorted(results)]
    shown = players([each.player for each in ordered], fps=ordered[0].fps, frames=max(each.frames for each in ordered))
    return shown + PAGES.get_template("results.html").render(results=ordered)


def status_html(text: str, progress: Progress | None = None, count: int = 1) -> str:
    """Return the status line of a request, with a bar over the steps of all its variants."""
    share = None
    if progress is not None:
        share = (progress.variant + (progress.step / progress.steps if progress.steps else 0)) / count
    return PAGES.get_template("status.html").render(text=text, share=share)


def progress_text(progress: Progress, count: int) -> str:
    """Return a line on the progress."""
    steps = f"step {progress.step} of {progress.steps}" if progress.steps else "starts"
    return f"clip {progress.variant + 1} of {count}: {steps}"
