"""Install plans at a transformer's attention sites and blocks: the only module that writes to them."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from vidguide.attention.plan import EMPTY, AttentionPlan
from vidguide.attention.site import AttentionSite
from vidguide.attention.sites import InterceptedProcessors
from vidguide.calls.call import Recorded
from vidguide.calls.guided_model import GuidedModel
from vidguide.guiding.checkpointing import Reinstall, bound_checkpoints
from vidguide.restoration import holding, restoring
from vidguide.transformer.block_replay import BlockReplay
from vidguide.transformer.cfg_batch import ALL_CONDITIONAL, Batch
from vidguide.transformer.text_stream import Lengths, installed_stream

INSTALLED = (  # of a site, for one pass
    *("edit", "outputs", "perturbation", "observers", "batch", "recording", "calls", "rotary"),
)


class Installation:
    """The sites and blocks of one transformer, and the plan that is installed there.

    Args:
        lock: held in each call of the transformer, and where backward computes a part of it again.
    """

    def __init__(self, model: GuidedModel, blocks: BlockReplay, lock: AbstractContextManager[Any]) -> None:
        self.lock = lock
        self.model, self.sites, self.blocks = model.original, model.sites, blocks
        self.text_sites = list(model.text_sites.values())
        self.processors = InterceptedProcessors(model.original, self.sites)

    @contextmanager
    def intercepted(self) -> Iterator[None]:
        """Intercept attention processors and blocks within the block; restore them afterwards."""
        with self.processors.installed(), self.blocks.installed():
            yield

    @contextmanager
    def installed(self, plan: AttentionPlan, batch: Batch) -> Iterator[None]:
        """Install a plan for one forward pass whose rows are those of `batch`; restore what was installed before.

        What the pass checkpoints for backward is bound to the plan.
        """
        checkpoints = self._checkpoints(plan, batch)
        with self._installed(plan, batch), checkpoints:
            yield

    def clear(self) -> None:
        """Uninstall everything from sites and blocks, and release what was recorded."""
        for site in self.sites:
            _install(site, EMPTY, ALL_CONDITIONAL)
            site.recorded = None
        self.blocks.clear()

    @contextmanager
    def _installed(self, plan: AttentionPlan, batch: Batch) -> Iterator[None]:
        before = [{name: getattr(site, name) for name in INSTALLED} for site in self.sites]

        def restore() -> None:
            for site, values in zip(self.sites, before, strict=True):
                site.measured = None
                for name, value in values.items():
                    setattr(site, name, value)

        with restoring(restore):
            for site in self.sites:
                _install(site, plan, batch)
            with (
                installed_stream(plan.second_text, batch),
                self.blocks.recording(plan.rerun_from),
                self.blocks.skipping(plan.skipped_blocks),
                self.blocks.changing(plan.block_inputs),
            ):
                yield

    def _checkpoints(self, plan: AttentionPlan, batch: Batch) -> AbstractContextManager[None]:
        """Return a context in which checkpointed functions are bound to a plan that changes something."""
        checkpoints = torch.is_grad_enabled() and getattr(self.model, "is_gradient_checkpointing", False)
        if plan == EMPTY or not checkpoints:
            return nullcontext()
        return bound_checkpoints(self.model, functools.partial(self._captured, plan, batch))

    def _captured(self, plan: AttentionPlan, batch: Batch) -> Reinstall:
        """Return what reinstalls a plan for one checkpointed function, as it is installed now."""
        plan = replace(plan, observers={}, recorded=frozenset(), rerun_from=frozenset())
        lengths = None if plan.second_text is None else plan.second_text.lengths
        return functools.partial(self._reinstalled, plan, batch, self.blocks.packed_tokens, lengths)

    @contextmanager
    def _reinstalled(
        self, plan: AttentionPlan, batch: Batch, packed_tokens: int | None, lengths: Lengths | None
    ) -> Iterator[None]:
        """Install a plan again for a function that backward computes again, perhaps in another `guide` or in none."""
        with (
            holding(self.lock),
            self.processors.reinstalled(),
            self.blocks.reinstalled(packed_tokens),
            self._installed(plan, batch),
        ):
            if plan.second_text is not None and lengths is not None:
                plan.second_text.lengths = lengths
            yield

    @contextmanager
    def recorded(self, plan: AttentionPlan) -> Iterator[Recorded]:
        """Yield a dict that holds, after the block, the keys, values and masks that the plan's sites recorded."""
        recorded: Recorded = {}

        def restore() -> None:
            for site in plan.recorded:
                site.recorded = None

        with restoring(restore):
            yield recorded
            for site in self.text_sites:  # in their order
                if site in plan.recorded and site.recorded is not None:
                    recorded[site] = site.recorded


def _install(site: AttentionSite, plan: AttentionPlan, batch: Batch) -> None:
    site.edit, site.perturbation = plan.edits.get(site), plan.perturbations.get(site)
    site.outputs, site.observers = plan.outputs.get(site, ()), plan.observers.get(site, ())
    site.recording, site.batch = site in plan.recorded, batch
    site.calls, site.rotary, site.measured = 0, None, None
