"""A poll on a folder of clips: the next pair of each rater, their votes, and the statistics."""

import threading
from dataclasses import dataclass
from pathlib import Path

from vidguide.eval.clips.read import file_hash
from vidguide.eval.preference.design import Design, Trial, read_design
from vidguide.eval.preference.rows import summarize_design
from vidguide.eval.preference.votes import NAME, append_vote, check_rater, make_vote, read_votes, remaining_trials
from vidguide.eval.schemas import Vote
from vidguide.eval.scoring.preference import Preference


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a rater does next.

    Attributes:
        trial: the next pair; None after the last one. following: the pair after it, likewise.
        done, total: number of pairs with a vote of the rater or skipped, and of all pairs.
    """

    trial: Trial | None
    following: Trial | None
    done: int
    total: int


class Poll:
    """A poll on the clips of a folder; its votes are in `votes.jsonl` there. Several threads may use it.

    Attributes:
        folder: of a sweep, or another one with clips of several variants.
        file: of the votes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / NAME
        self._lock = threading.Lock()
        self._design: Design | None = None

    def design(self, again: bool = False) -> Design:
        """Return the design of the clips, read at the first call or again; raises as :func:`read_design`."""
        with self._lock:
            if self._design is None or again:
                self._design = read_design(self.folder)
            return self._design

    def votes(self) -> list[Vote]:
        """Return all votes; raises as :func:`read_votes`, but for a missing file."""
        return read_votes(self.file) if self.file.is_file() else []

    def next_turn(self, rater: str) -> Turn:
        """Return the next pair of a rater. Clips that were made again since the design was read are noticed.

        Raises:
            VotesError: a wrong name, or a line of the file is no vote. Others: as :func:`read_design`.
        """
        rater = check_rater(rater)
        turn = self._turn(rater, self.design())
        if turn.trial is not None and not is_unchanged(turn.trial):
            turn = self._turn(rater, self.design(again=True))
        return turn

    def _turn(self, rater: str, design: Design) -> Turn:
        trials, remaining = design.trials(rater), remaining_trials(design, self.votes(), rater)
        trial, following = [*remaining, None, None][:2]
        return Turn(trial=trial, following=following, done=len(trials) - len(remaining), total=len(trials))

    def vote(self, trial: Trial, rater: str, choice: str, milliseconds: int) -> None:
        """Append a vote to the file; raises as :func:`make_vote` and :func:`append_vote`."""
        append_vote(self.file, make_vote(trial, rater, choice, milliseconds))

    def statistics(self) -> tuple[Preference | None, list[str]]:
        """Return the statistics of all votes, and notes on those that are set apart."""
        return summarize_design(self.design(), self.votes())


def is_unchanged(trial: Trial) -> bool:
    """Return whether both clips of a trial are still the files that the design has."""
    return all(clip.path.exists() and file_hash(clip.path) == clip.sha256 for clip in trial.clips)
