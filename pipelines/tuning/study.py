"""Trials, proposed by Optuna and recorded in its journal, so that a tuning that is continued has the same trials.

The journal has each trial with its parameters from the moment it is proposed. A tuning that continues runs the whole
search again on the clips that exist: trials that the journal has are taken from it, further ones are proposed from the
history of exactly that moment, with a seed of their number.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vidguide.pipelines.tuning.ranges import Space

NAME = "journal.log"
DRAWN_FROM = 1000  # untried settings, the first of them, from which one is drawn
RANDOM_TRIALS = 8  # before the sampler has a model of the objectives
ATTEMPTS = 20  # proposals, each equal to an earlier trial, before another setting is drawn at random


class Proposal(NamedTuple):
    """A trial to run: its number, and the values of its parameters."""

    number: int
    values: dict[str, Any]


def require() -> None:
    """Check that Optuna is installed.

    Raises:
        ImportError: naming the cure.
    """
    if find_spec("optuna") is None:
        raise ImportError("optuna: not installed; pip install 'vidguide[tune]'")


@contextmanager
def without_messages() -> Iterator[None]:
    """Hide Optuna's messages in the context; its warnings remain."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class Study:
    """Trials of a folder: two objectives, both to be maximized.

    They are the improvement of the objective, and the smallest distance of a metric to keep from its margin.
    """

    def __init__(self, folder: Path, space: Space, seed: int) -> None:
        """Open the journal of the folder, or create it."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.space, self.seed = space, seed
        self._distributions = {each.name: each.distribution() for each in space.ranges}
        self._proposed = 0
        with without_messages():
            storage = JournalStorage(JournalFileBackend(str(folder / NAME)))
            self._study = optuna.create_study(
                storage=storage, study_name="tune", directions=["maximize"] * 2, load_if_exists=True
            )

    def ask(self) -> Proposal | None:
        """Return the next trial; None if all settings were tried."""
        number, trials = self._proposed, self._study.get_trials(deepcopy=False)
        if number < len(trials):
            values = dict(trials[number].params)
        else:
            proposed = self._propose(trials)
            if proposed is None:
                return None
            values = proposed
            self._record(values)
        self._proposed += 1
        return Proposal(number, values)

    def record_result(self, number: int, values: tuple[float, float] | None) -> None:
        """Record the objectives of a trial, or None for one without values; nothing if the journal has them."""
        from optuna.trial import TrialState

        if self._study.get_trials(deepcopy=False)[number].state != TrialState.RUNNING:
            return
        if values is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, list(values))

    def _record(self, values: dict[str, Any]) -> None:
        """Add a trial to the journal, as one record."""
        from optuna.trial import TrialState, create_trial

        attributes = {"guidance": self.space.spec(values)}
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING, params=values, distributions=self._distributions, user_attrs=attributes
            )
        )

    def _propose(self, trials: list[Any]) -> dict[str, Any] | None:
        """Return values that no trial has; the guidance's defaults first, if they are in the ranges."""
        defaults = self.space.defaults()
        if not trials and defaults is not None:
            return defaults
        earlier = [trial.params for trial in trials]
        for attempt in range(ATTEMPTS):
            values = self._sample(trials, attempt)
            if values not in earlier:
                return values
        untried = list(islice((values for values in self.space.settings() if values not in earlier), DRAWN_FROM))
        return random.Random(self.seed * 1_000_003 + len(trials)).choice(untried) if untried else None

    def _sample(self, trials: list[Any], attempt: int) -> dict[str, Any]:
        """Return what the sampler proposes after some trials: the tree-structured Parzen estimator of Optuna."""
        import optuna

        seed = (self.seed * 1_000_003 + len(trials) * ATTEMPTS + attempt) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, constant_liar=True)
        with without_messages():
            copy = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
            copy.add_trials(trials)
            proposed = copy.ask(self._distributions).params
        return {each.name: each.rounded(proposed[each.name]) for each in self.space.ranges}
