"""The tab *Vote*: blind pairs of a sweep's clips, in sync, and the statistics of the votes.

A visitor's trial stays on the server. The page has the prompt, two addresses with random names, and a token.
"""

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from vidguide.eval.clips.read import read
from vidguide.eval.files import parse_json, validate
from vidguide.eval.preference.design import Candidate, Trial
from vidguide.eval.preference.poll import Poll
from vidguide.eval.preference.votes import DuplicateVoteError, VotesError
from vidguide.eval.report.preference_tables import preference_notes, preference_tables
from vidguide.eval.schemas import Answer
from vidguide.pipelines.web.components import plain_html, shown_errors
from vidguide.pipelines.web.players import PAGES, Player, players
from vidguide.pipelines.web.public_files import PublicFiles
from vidguide.pipelines.web.server import Server

CHOICES = {"left": "1 is better", "tie": "0: tie", "right": "2 is better", "skip": "s: skip"}
NO_FOLDER = "No clips to vote on: start with `vidguide serve SWEEP_FOLDER`, where a sweep wrote."
STILL_BLIND = "The statistics come after the last pair, since they name the variants. To stop earlier, reload the page."
RATERS = 8  # who are served at the same time
PREPARING = ThreadPoolExecutor(max_workers=1)  # encodes the pair after the one that a rater sees


@dataclass(frozen=True)
class Ballot:
    """The pair that a visitor sees.

    Attributes:
        rater: name of the visitor. trial: the pair; None after the last one.
        token: of this showing of the pair, which a vote must have.
    """

    rater: str
    trial: Trial | None
    token: str


def vote_tab(server: Server) -> None:
    """Add the content of the tab."""
    if server.folder is None:
        plain_html(PAGES.get_template("vote.html").render(text=NO_FOLDER), "vg-vote")
        return
    poll = Poll(server.folder)
    remembered, ballot = gr.BrowserState("", storage_key="vidguide-rater"), gr.State(None)
    with gr.Row():
        name = gr.Textbox(label="your name", elem_id="vg-rater", max_length=60, scale=3, min_width=160)
        start = gr.Button("start", variant="primary", elem_id="vg-vote-start", scale=0, min_width=90)
        show = gr.Button("statistics", elem_id="vg-vote-show", scale=0, min_width=110)
    pair = plain_html(PAGES.get_template("vote.html").render(text=""), "vg-vote")
    with gr.Row(visible=False) as row:
        buttons = {
            choice: gr.Button(text, elem_id=f"vg-vote-{choice}", min_width=80) for choice, text in CHOICES.items()
        }
    statistics = plain_html("", "vg-vote-statistics")
    answer = gr.Textbox(visible=False)
    shown = [ballot, pair, row, statistics]

    def begin(rater: str) -> list[Any]:
        with shown_errors():
            return [rater.strip(), *next_pair(server.files, poll, rater.strip())]

    def vote(text: str, current: Ballot | None) -> list[Any]:
        with shown_errors():
            return record(server.files, poll, text, current)

    def tabulate(current: Ballot | None) -> str:
        with shown_errors():
            return show_statistics(poll, current)

    options = {"concurrency_limit": RATERS, "concurrency_id": "vote", "show_progress": "hidden"}
    for event in (start.click, name.submit):
        event(begin, [name], [remembered, *shown], api_name=False, **options)
    for choice, button in buttons.items():
        collect = f"(answer, ...others) => [window.vidguide.vote({json.dumps(choice)}), ...others]"
        button.click(vote, [answer, ballot], shown, js=collect, api_name=False, **options)
    show.click(tabulate, [ballot], [statistics], api_name=False, **options)
    gr.context.Context.root_block.load(None, [remembered, name], [name], js="(stored, typed) => typed || stored")


def next_pair(files: PublicFiles, poll: Poll, rater: str, notice: str = "") -> list[Any]:
    """Return the ballot, the pair as HTML, the row of buttons, and after the last pair the statistics."""
    turn = poll.next_turn(rater)
    ballot = Ballot(rater, turn.trial, secrets.token_hex(8))
    progress = f"pair {min(turn.done + 1, turn.total)} of {turn.total}"
    if turn.trial is None:
        text = f"All {turn.total} pairs are done. Thank you, {rater}."
        html = PAGES.get_template("vote.html").render(text=text)
        return [ballot, html, gr.update(visible=False), statistics_html(poll)]
    html = PAGES.get_template("vote.html").render(
        text=notice, progress=progress, token=ballot.token, players=pair_html(files, turn.trial)
    )
    if turn.following is not None:
        PREPARING.submit(pair_html, files, turn.following)  # an error is shown when the pair is
    return [ballot, html, gr.update(visible=True), ""]


def record(files: PublicFiles, poll: Poll, text: str, ballot: Ballot | None) -> list[Any]:
    """Record a vote, and return what :func:`next_pair` does. An answer to another showing changes nothing.

    Args:
        files: that the page may fetch. poll: that the vote belongs to.
        text: JSON of the answer, from static/vote.js.
        ballot: the pair that the visitor sees.
    """
    answer = validate(Answer, parse_json(text, "answer", VotesError), "answer", error=VotesError)
    if ballot is None or ballot.trial is None or answer.token != ballot.token:
        return [gr.skip()] * 4
    try:
        poll.vote(ballot.trial, ballot.rater, answer.choice, answer.milliseconds)
    except DuplicateVoteError:
        return next_pair(files, poll, ballot.rater, "That pair has your vote already, from another window.")
    return next_pair(files, poll, ballot.rater)


def pair_html(files: PublicFiles, trial: Trial) -> str:
    """Return both clips in sync, under names that say nothing."""
    shown = [shown_clip(files, clip) for clip in (trial.left, trial.right)]
    named = [Player(video=address, label=label) for (address, *_), label in zip(shown, "12", strict=True)]
    return players(named, fps=shown[0][1], frames=max(frames for _, _, frames in shown), title=trial.text)


def shown_clip(files: PublicFiles, candidate: Candidate) -> tuple[str, float, int]:
    """Return the address of a clip as MP4 without its JSON, its frame rate and its number of frames."""
    clip = read(candidate.path)

    def write(path: Path) -> None:
        clip.save(path)
        path.with_suffix(".json").unlink()

    return files.url(files.add("clip.mp4", write, ("vote", candidate.sha256))), clip.fps, len(clip.frames)


def show_statistics(poll: Poll, ballot: Ballot | None) -> str:
    """Return the statistics; a visitor with a pair to compare gets a sentence instead, since they name the variants."""
    if ballot is not None and ballot.trial is not None:
        return PAGES.get_template("vote.html").render(text=STILL_BLIND)
    return statistics_html(poll)


def statistics_html(poll: Poll) -> str:
    """Return the statistics of all votes."""
    preference, set_apart = poll.statistics()
    tables = preference_tables(preference)
    notes = [*preference_notes(preference), *set_apart] if preference else [*set_apart, "There are no votes yet."]
    return PAGES.get_template("vote_statistics.html").render(tables=tables, notes=notes)
