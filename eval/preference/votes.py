"""The file of votes: one JSON line per vote, appended.

Only whole lines count: what a killed process left of its last line is removed by the next vote. A lock, which the
operating system releases when a process ends, lets several processes append to one file.
"""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vidguide.eval.files import parse_json, read_text, validate
from vidguide.eval.preference.design import Design, Trial
from vidguide.eval.schemas import Rater, Vote

NAME = "votes.jsonl"
LOCK_SECONDS = 30.0
CURE = "correct or remove the line"


class VotesError(ValueError):
    """A file of votes with invalid content; the message names the line."""


class DuplicateVoteError(VotesError):
    """The rater has already voted on these two files."""


def vote_key(vote: Vote) -> tuple[Any, ...]:
    """Return what identifies the pair of files of a vote, as :attr:`Trial.key`."""
    return vote.prompt, vote.seed, *zip(vote.variants, vote.sha256, strict=True)


def check_rater(name: str) -> str:
    """Return the name of a rater in Unicode's composed form.

    Raises:
        VotesError: it is empty, too long, or has control characters.
    """
    checked: str = validate(Rater, name, "rater", error=VotesError)
    return checked


def make_vote(trial: Trial, rater: str, choice: str, milliseconds: int) -> Vote:
    """Return a vote on a trial, with the present time.

    Raises:
        ValueError: a wrong name of a rater, choice or number of milliseconds; it says what must be.
    """
    fields = {
        **{"schema": 1, "rater": rater, "prompt": trial.prompt, "seed": trial.seed},
        **{"variants": [clip.variant for clip in trial.clips], "left": trial.left.variant},
        **{"choice": choice, "milliseconds": milliseconds, "sha256": [clip.sha256 for clip in trial.clips]},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    vote: Vote = validate(Vote, fields, error=VotesError)
    return vote


def read_votes(path: Path) -> list[Vote]:
    """Return the votes in a file.

    Raises:
        VotesError: a line is no vote, or a rater has two votes on the same files; names the file and the line.
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"votes={str(path)!r}: no such file")
    lines: dict[tuple[Any, ...], int] = {}
    votes = []
    for number, line in enumerate(whole_lines(read_text(path, VotesError)), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        vote = parse_vote(line, where)
        earlier = lines.setdefault((vote.rater, *vote_key(vote)), number)
        if earlier != number:
            raise DuplicateVoteError(f"{where}: {vote.rater!r} has a vote on the same clips in line {earlier}; {CURE}")
        votes.append(vote)
    return votes


def whole_lines(text: str) -> list[str]:
    """Return the lines of a text without line breaks; a last one without a break counts if it is complete JSON."""
    *lines, last = text.split("\n")
    return [*lines, last] if is_json(last) else lines


def is_json(text: str) -> bool:
    """Return whether a text is JSON, which no part of an object is."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def parse_vote(line: str, where: str) -> Vote:
    """Return the vote in a line; raises as :func:`read_votes`."""
    content = parse_json(line, where, VotesError, CURE, finite=True)
    if not isinstance(content, dict):
        raise VotesError(f"{where}: is {type(content).__name__}, must be an object; {CURE}")
    vote: Vote = validate(Vote, content, where=where, error=VotesError, cure=CURE)
    return vote


def append_vote(path: Path, vote: Vote) -> None:
    """Append a vote to a file, which is made if it is missing.

    Raises:
        DuplicateVoteError: the rater has already voted on these files.
        VotesError: a line of the file is no vote, or another process holds the file for `LOCK_SECONDS`.
        OSError: the file cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(path.with_name(path.name + ".lock"), timeout=LOCK_SECONDS):
            if path.is_file():
                check_new(vote, read_votes(path))
                repair(path)
            write_line(path, vote.model_dump_json(by_alias=True))
    except Timeout:
        raise VotesError(f"votes={str(path)!r}: another process holds the file for {LOCK_SECONDS:g} s") from None


def check_new(vote: Vote, votes: Iterable[Vote]) -> None:
    """Refuse a second vote of a rater on the same files.

    Raises:
        DuplicateVoteError: naming the earlier one.
    """
    for other in votes:
        if other.rater == vote.rater and vote_key(other) == vote_key(vote):
            raise DuplicateVoteError(f"rater={vote.rater!r}: has already voted on this pair, at {other.time}")


def repair(path: Path) -> None:
    """End the last line of a file, and remove it if it is incomplete."""
    content = path.read_bytes()
    start = content.rfind(b"\n") + 1
    last = content[start:]
    if not last:
        return
    with path.open("r+b") as file:
        if is_json(last.decode("utf-8", "replace")):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(start)


def write_line(path: Path, text: str) -> None:
    """Append a line by one write, and wait until it is on the disk."""
    with path.open("ab", buffering=0) as file:
        file.write(text.encode() + b"\n")
        os.fsync(file.fileno())


def remaining_trials(design: Design, votes: Iterable[Vote], rater: str, seed: int = 0) -> list[Trial]:
    """Return the trials of a rater that have no vote yet, in order; skipped ones have one."""
    voted = {vote_key(vote) for vote in votes if vote.rater == rater}
    return [trial for trial in design.trials(rater, seed) if trial.key not in voted]
