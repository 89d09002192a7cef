"""Rows of the metric `preference.human`: the votes on each clip, for the clips that an evaluation has."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vidguide.eval.metrics.human_preference import PREFERENCE
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.preference.design import Design
from vidguide.eval.preference.votes import NAME
from vidguide.eval.schemas import Vote
from vidguide.eval.scoring.preference import RESULTS, SKIP, Preference, summarize_votes
from vidguide.eval.scoring.results import SCHEMA, Row, settings_hash

ENTRY_FIELDS = (
    *("clip", "arm", "prompt_id", "seed", "prompt", "eval_prompt", "negative_prompt", "file_sha256", "versions"),
)
OTHER_SIDE = {"left": "right", "right": "left"}
Key = tuple[str, int | None, str]  # prompt id, seed and SHA-256 of the file


def find_votes(votes: Path | None, folders: Iterable[Path]) -> Path | None:
    """Return the file of votes: the given one, else `votes.jsonl` in one of the folders, else None."""
    if votes is not None:
        return votes
    return next((folder / NAME for folder in folders if (folder / NAME).is_file()), None)


def preference_rows(scored: Sequence[Row], votes: Sequence[Vote]) -> tuple[list[Row], list[str]]:
    """Return a row for each clip with its votes, and notes on the votes that are set apart.

    A vote belongs to the two files that the rater saw, by their SHA-256. Where several variants have the same file, it
    belongs to those whose names the vote has.

    Args:
        scored: rows of the evaluation, from which the clips are taken.
        votes: of all raters.
    """
    clips: dict[tuple[str, str], Row] = {}
    for row in scored:
        clips.setdefault((row["arm"], row["clip"]), row)
    by_file: dict[Key, list[Row]] = {}
    for row in clips.values():
        by_file.setdefault((row["prompt_id"], row["seed"], row["file_sha256"]), []).append(row)
    by_clip: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in clips}
    set_apart: dict[str, int] = {}
    for vote in votes:
        reason = why_set_apart(vote, by_file, clips.values())
        if reason:
            set_apart[reason] = set_apart.get(reason, 0) + 1
            continue
        for row, details in vote_details(vote, by_file):
            by_clip[row["arm"], row["clip"]].append(details)
    rows = [clip_row(row, by_clip[key]) for key, row in clips.items()]
    return rows, [f"Votes set apart: {count}, {reason}." for reason, count in set_apart.items()]


def why_set_apart(vote: Vote, by_file: dict[Key, Any], clips: Iterable[Row]) -> str:
    """Return why a vote does not count; empty if it does."""
    if vote.sha256[0] == vote.sha256[1]:
        return "on two equal files"
    if all((vote.prompt, vote.seed, sha256) in by_file for sha256 in vote.sha256):
        return ""
    same = [row for row in clips if (row["prompt_id"], row["seed"]) == (vote.prompt, vote.seed)]
    present = {name for row in same for name in (row["arm"], Path(row["clip"]).parent.name)}
    if present >= set(vote.variants):
        return "on clips that have been made again since (their SHA-256 differs)"
    return "on clips that are not evaluated here"


def vote_details(vote: Vote, by_file: dict[Key, list[Row]]) -> list[tuple[Row, dict[str, Any]]]:
    """Return the rows of the two clips of a vote, and what each says about the vote."""
    files = zip(vote.variants, vote.sha256, strict=True)
    rows = [row_of(variant, by_file[vote.prompt, vote.seed, sha256]) for variant, sha256 in files]
    details = []
    for place, variant in enumerate(vote.variants):
        other, side = rows[1 - place], "left" if variant == vote.left else "right"
        fields = {"rater": vote.rater, "against": other["file_sha256"], "against_clip": other["clip"], "side": side}
        details.append((rows[place], {**fields, "choice": vote.choice, "milliseconds": vote.milliseconds}))
    return details


def row_of(variant: str, rows: Sequence[Row]) -> Row:
    """Return the row of a variant among those of equal files: that of its arm or folder, else the first."""
    return next((row for row in rows if variant in (row["arm"], Path(row["clip"]).parent.name)), rows[0])


def clip_row(scored: Row, votes: list[dict[str, Any]]) -> Row:
    """Return the row of one clip: the share of its votes that it won."""
    metric = METRICS[PREFERENCE]
    results = [won(vote) for vote in votes if vote["choice"] != SKIP]
    value = sum(results) / len(results) if results else None
    return {
        **{"schema": SCHEMA, **{name: scored.get(name) for name in ENTRY_FIELDS}, "metric": metric.id},
        **{"version": metric.version, "unit": metric.unit, "weights": "", "computed_on": "raters"},
        "config_hash": settings_hash({"metric": metric.id, "version": metric.version}),
        **{"value": value, "status": "ok" if results else "undefined"},
        **{"reason": None if results else "no vote on this clip", "per_frame": [], "details": {"votes": votes}},
    }


def won(vote: dict[str, Any]) -> float:
    """Return 1 if the clip of a row won a vote, 0 if it lost, 1/2 for a tie."""
    right = RESULTS[vote["choice"]]
    return right if vote["side"] == "right" else 1 - right


def design_rows(design: Design) -> list[Row]:
    """Return the fields that :func:`preference_rows` takes, of clips that are not scored."""
    return [
        {
            **{"clip": str(clip.path), "arm": clip.variant, "prompt_id": prompt, "seed": seed},
            **{"file_sha256": clip.sha256, "metric": ""},
        }
        for (prompt, seed), group in design.clips.items()
        for clip in group.values()
    ]


def summarize_design(design: Design, votes: Sequence[Vote]) -> tuple[Preference | None, list[str]]:
    """Return the statistics of the votes on the clips of a design, and notes on votes that are set apart."""
    rows, notes = preference_rows(design_rows(design), votes)
    return summarize_votes(rows), notes
