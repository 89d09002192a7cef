"""The tab *Browse*: the clips of a sweep or an evaluation, by prompt and variant, and in grids of two parameters."""

import math
from pathlib import Path
from typing import Any

import gradio as gr

from vidguide.clip import Clip
from vidguide.eval.clips.read import read
from vidguide.eval.scoring.statistics import Key
from vidguide.pipelines.web import grid
from vidguide.pipelines.web.components import plain_html, shown_errors
from vidguide.pipelines.web.gallery import (
    DIFFERENCE,
    ORDERS,
    PROMPT,
    Gallery,
    clip_file,
    describe_values,
    read_gallery,
)
from vidguide.pipelines.web.players import Player, players
from vidguide.pipelines.web.server import Server

PAGE = 5  # rows
DIRECTIONS = ("smallest first", "largest first")
NO_FOLDER = "No folder to browse: start with `vidguide serve SWEEP_FOLDER`, where a sweep or an evaluation wrote."
SHOWN_ARMS = 6


def browse_tab(server: Server) -> None:
    """Add the content of the tab."""
    if server.folder is None:
        gr.Markdown(NO_FOLDER)
        return
    browser = Browser(server, server.folder)
    gallery_controls(browser)
    if len(browser.axes) > 1:
        grid_controls(browser)


def gallery_controls(browser: "Browser") -> None:
    """Add the gallery: prompts and seeds in rows, variants in columns."""
    gallery = browser.gallery
    metrics, arms = gallery.metrics, gallery.arms
    scored = [DIFFERENCE, PROMPT] if metrics and len(arms) > 1 else [PROMPT]
    with gr.Row():
        order = gr.Dropdown(list(ORDERS), value=scored[0], label="sort by", elem_id="vg-order", min_width=200)
        metric = gr.Dropdown(
            metrics, value=metrics[0] if metrics else None, label="metric", elem_id="vg-metric", min_width=200
        )
        arm = gr.Dropdown(arms, value=arms[-1], label="of", elem_id="vg-arm", min_width=200)
        direction = gr.Dropdown(
            list(DIRECTIONS), value=DIRECTIONS[0], label="direction", elem_id="vg-direction", min_width=200
        )
    with gr.Row():
        shown = gr.Dropdown(
            arms, value=arms[:SHOWN_ARMS], multiselect=True, label="variants", elem_id="vg-arms", scale=4, min_width=320
        )
        page = gr.Number(
            1,
            label=f"page of {browser.pages}",
            precision=0,
            minimum=1,
            maximum=browser.pages,
            elem_id="vg-page",
            min_width=120,
        )
    rows = plain_html("", "vg-gallery")
    inputs = [order, metric, arm, direction, shown, page]

    def show(*values: Any) -> str:
        with shown_errors():
            return browser.rows(*values)

    for control in inputs:
        control.change(show, inputs, rows, concurrency_limit=2, concurrency_id="browse")
    gr.context.Context.root_block.load(show, inputs, rows, concurrency_limit=2, concurrency_id="browse")


def grid_controls(browser: "Browser") -> None:
    """Add the grid of two parameters."""
    keys = [title(browser.gallery, key) for key in browser.gallery.clips]
    with gr.Accordion("Grid of two parameters, with the same noise in every cell", open=False, elem_id="vg-grid"):
        with gr.Row():
            across = gr.Dropdown(browser.axes, value=browser.axes[0], label="columns", elem_id="vg-x")
            down = gr.Dropdown(browser.axes, value=browser.axes[1], label="rows", elem_id="vg-y")
            clip = gr.Dropdown(keys, value=keys[0], label="prompt and seed", type="index", elem_id="vg-key", scale=3)
        show = gr.Button("show", elem_id="vg-show-grid")
        table = plain_html("", "vg-table")

    def draw(x: str, y: str, number: int) -> str:
        with shown_errors():
            return browser.grid(x, y, number)

    show.click(draw, [across, down, clip], table, concurrency_limit=2, concurrency_id="browse")


def title(gallery: Gallery, key: Key) -> str:
    """Return a prompt and seed as text."""
    return gallery.prompts[key] if key[1] is None else f"{gallery.prompts[key]}, seed {key[1]}"


class Browser:
    """The clips of one folder, as HTML.

    Attributes:
        gallery: the clips.
        parameters: of each variant. axes: those in which they differ.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.files, self.folder = server.files, folder
        self.gallery = read_gallery(folder)
        self.parameters = grid.parameters_of(self.gallery, folder)
        self.axes = grid.axes(self.parameters)

    @property
    def pages(self) -> int:
        """Number of pages of the gallery."""
        return math.ceil(len(self.gallery.clips) / PAGE)

    def rows(self, order: str, metric: str, arm: str, direction: str, arms: list[str], page: int) -> str:
        """Return the rows of a page of the gallery.

        Raises:
            ValueError: an argument that the page does not offer.
        """
        self.check_choice("sort by", order, ORDERS)
        self.check_choice("of", arm, self.gallery.arms)
        for name in arms:
            self.check_choice("variants", name, self.gallery.arms)
        if order != PROMPT:
            self.check_choice("metric", metric, self.gallery.metrics)
        keys = self.gallery.sorted_keys(order, metric, arm, direction == DIRECTIONS[0])
        first = (min(max(int(page or 1), 1), self.pages) - 1) * PAGE
        shown = [name for name in self.gallery.arms if name in arms]
        return (
            f'<div class="vg-rows">{"".join(self.row(key, shown, metric) for key in keys[first : first + PAGE])}</div>'
        )

    def row(self, key: Key, arms: list[str], metric: str) -> str:
        """Return the clips of one prompt and seed, paused at the worst frame of any."""
        present = [arm for arm in arms if arm in self.gallery.clips[key]]
        if not present:
            return ""
        clips = [self.player(key, arm, metric) for arm in present]
        fps, frames = self.timing(key, present)
        start, curve = self.gallery.worst_frame(key, present, metric)
        heading = title(self.gallery, key) + (f"; worst frame {start} by {curve}" if curve else "")
        return players(clips, fps=fps, frames=frames, start=start, title=heading)

    def timing(self, key: Key, arms: list[str]) -> tuple[float, int]:
        """Return the frames per second of the clips of a row, and the number of frames of the longest."""
        rows = [next(iter(self.gallery.clips[key][arm].values())) for arm in arms]
        if any(not row.get("frames") for row in rows):
            clips = [read(clip_file(self.gallery.clips[key][arm], self.folder)) for arm in arms]
            return clips[0].fps, max(len(clip.frames) for clip in clips)
        return rows[0].get("fps") or 8.0, max(row["frames"] for row in rows)

    def player(self, key: Key, arm: str, metric: str, label: str | None = None) -> Player:
        """Return the player of a clip, whose file and JSON are copied for the page."""
        source = clip_file(self.gallery.clips[key][arm], self.folder)
        path = self.files.add(
            "clip.mp4", lambda target: publish(source, target), key=(str(source), source.stat().st_mtime)
        )
        links = [("JSON", self.files.url(path.with_suffix(".json")))] if path.with_suffix(".json").is_file() else []
        note = describe_values(self.gallery, key, arm, metric)
        return Player(video=self.files.url(path), label=arm if label is None else label, note=note, links=links)

    def grid(self, x: str, y: str, number: int) -> str:
        """Return the grid of two parameters for the clips of one prompt and seed.

        Raises:
            ValueError: an argument that the page does not offer.
        """
        for name, value in (("columns", x), ("rows", y)):
            self.check_choice(name, value, self.axes)
        if x == y:
            raise ValueError(f"rows={y!r}: must be another parameter than columns")
        keys = list(self.gallery.clips)
        self.check_choice("prompt and seed", number, range(len(keys)))
        return self.draw_grid(keys[number], x, y)

    def draw_grid(self, key: Key, x: str, y: str) -> str:
        """Return the grid; raises as :meth:`grid`."""
        across, down = grid.levels(self.parameters, x), grid.levels(self.parameters, y)
        table = grid.cells(self.gallery, self.parameters, key, x, y)
        clips: list[Player | None] = []
        for row, lower in zip(table, down, strict=True):
            for arms, right in zip(row, across, strict=True):
                label = f"{x} {right}, {y} {lower}" + (f" ({len(arms)} variants)" if len(arms) > 1 else "")
                clips.append(self.player(key, arms[0], "", label) if arms else None)
        fps, frames = self.timing(key, [arms[0] for row in table for arms in row if arms])
        return players(clips, fps=fps, frames=frames, title=title(self.gallery, key), columns=len(across))

    def check_choice(self, name: str, value: Any, choices: Any) -> None:
        """Refuse a value that the page does not offer, with a ValueError."""
        if value not in choices:
            raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(str, choices))}")


def publish(source: Path, target: Path) -> None:
    """Write a clip as MP4, and its JSON next to it."""
    clip = read(source, audio=True)
    Clip(frames=clip.frames, fps=clip.fps, audio=clip.audio, audio_sample_rate=clip.audio_sample_rate).save(target)
    target.with_suffix(".json").unlink()
    if source.with_suffix(".json").is_file():
        target.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
