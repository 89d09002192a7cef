"""Clips next to each other that play on one clock, as HTML; static/players.js moves them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

STATIC = Path(__file__).parent / "static"
PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(STATIC), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
)


@dataclass(frozen=True, kw_only=True)
class Player:
    """One clip of a group.

    Attributes:
        video: address of the MP4.
        label: above the clip.
        note: below the clip.
        links: text and address of further files of the clip.
        sound: whether it has audio.
    """

    video: str
    label: str = ""
    note: str = ""
    links: Sequence[tuple[str, str]] = ()
    sound: bool = False


def players(
    clips: Sequence[Player | None],
    *,
    fps: float,
    frames: int,
    start: int | None = None,
    title: str = "",
    columns: int | None = None,
) -> str:
    """Return a group of clips that play in sync, step by step or in a loop.

    Args:
        clips: of the group; None for an empty cell of a grid.
        fps: frames per second.
        frames: number of frames of the longest clip.
        start: the frame that is shown first, paused; None to play at once.
        title: above the group.
        columns: of a grid; None for as many as fit.
    """
    settings = json.dumps({"fps": fps, "frames": frames, "start": start})
    return PAGES.get_template("players.html").render(
        clips=clips, settings=settings, title=title, frames=frames, columns=columns
    )


def read_static(*names: str) -> str:
    """Return the content of static files, one after the other."""
    return "\n".join((STATIC / name).read_text(encoding="utf-8") for name in names)
