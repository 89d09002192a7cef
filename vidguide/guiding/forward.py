"""What happens around each call of a guided transformer."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vidguide.attention.sites import rebind, routed
from vidguide.calls.denoiser import Denoiser, prediction_of, predictions_of
from vidguide.guidances.base import Guidance
from vidguide.transformer.family import Inputs
from vidguide.transformer.text_stream import carrying


class GuidedCalls:
    """Stands around the calls of one transformer: lets the guidances act on the conditional ones.

    Args:
        denoiser: the transformer, as guidances see it.
        peers: those of all transformers that take turns in a run, this one among them.
    """

    def __init__(self, denoiser: Denoiser, peers: list[Denoiser]) -> None:
        self.denoiser, self.peers, self.contexts = denoiser, peers, denoiser.contexts
        self.signature = inspect.signature(type(denoiser.original).forward)
        self._checked = -1  # the run before whose first step all was looked at

    @contextmanager
    def rebound(self) -> Iterator[None]:
        """Route attention through the sites; on leaving, modules and blocks are as they were."""
        denoiser, caches = self.denoiser, self.denoiser.caches
        try:
            with routed(denoiser.original, denoiser.sites), denoiser.blocks.staged():
                yield
        except BaseException:
            caches.look()
            caches.reset()
            raise
        finally:
            caches.look()
            caches.forget()

    def __call__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand around one call; `call` is the transformer's own."""
        denoiser, run = self.denoiser, self.denoiser.run
        if denoiser.call is not None:
            return call(*args, **kwargs)  # one of ours, for a guidance
        branch, _ = denoiser.branches.next(), denoiser.branches.pipeline_guides()
        if denoiser.pipe is None and run.steps is None:
            run.begin(None)  # nothing tells one sampling from the next: keep nothing between calls
        if branch == "cond" and self._checked != run.number:
            self._check_run(args, kwargs)
        active = [guidance for guidance in denoiser.guidances if guidance.active(run.progress)]
        if branch != "cond":
            for guidance in active:
                guidance.beside_uncond()
                denoiser.caches.check_uncond(guidance, denoiser.family)
        if branch != "cond" or not active:
            return call(*args, **kwargs)
        with denoiser.at_work(call, self._bind(args, kwargs)):
            changed = self._prepare(active)
            with carrying(denoiser.stream):
                output = call(*args, **kwargs) if changed is None else call(**changed)
            self._record()
            denoiser.beside = predictions_of(output)[1:]
            prediction = self._guided(active, prediction_of(output))
            if prediction is prediction_of(output):
                return output
            return _with_predictions(output, [prediction, *denoiser.beside])

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """A call's arguments by name; which of their rows are conditional is known from here on."""
        self.denoiser.batch.halved = self.denoiser.branches.halved()
        arguments = dict(self.signature.bind(self.denoiser.original, *args, **kwargs).arguments)
        arguments.pop("self")
        return arguments

    def _check_run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first step of a run, refuse what would be found out, or be wrong, in the middle of it."""
        for peer in self.peers:
            peer.caches.look()
            peer.caches.forget()
            for guidance in peer.guidances:
                peer.caches.check(guidance, peer.family, peer.depth)
                peer.ranks.check(guidance, peer.family)
        with self.denoiser.at_work(None, self._bind(args, kwargs)):
            for guidance in self.denoiser.guidances:
                if not guidance.neutral:
                    guidance.check_run(self.denoiser)
        self._checked = self.denoiser.run.number

    def _prepare(self, active: list[Guidance]) -> Inputs | None:
        """Let the guidances prepare for the call that comes next; the arguments for it, where one changes them."""
        denoiser = self.denoiser
        rebind(denoiser.sites)
        for site in denoiser.sites:
            site.calls = 0
        own = denoiser.inputs
        for guidance in active:
            denoiser.inputs = guidance.change_inputs(denoiser, denoiser.inputs)
        for guidance in active:
            guidance.prepare(denoiser)
        return None if denoiser.inputs is own else denoiser.inputs

    def _record(self) -> None:
        run = self.denoiser.run
        for site in self.denoiser.text_sites.values():
            measured = getattr(site.edit, "measured", None)
            if measured is not None:
                run.current.add(run.step, site.layer, measured)

    def _guided(self, active: list[Guidance], untouched: Tensor) -> Tensor:
        """The conditional prediction with every correction added, then combined with the unconditional one."""
        denoiser = self.denoiser
        denoiser.blocks.stop_keeping()
        for site in denoiser.sites:
            site.watchers.clear()
        cond = denoiser.batch.conditional(untouched)
        found = [guidance.correction(denoiser, cond) for guidance in active]
        corrections = [correction for correction in found if correction is not None]
        prediction = sum(corrections, cond) if corrections else untouched
        if len(prediction) < len(untouched):
            prediction = torch.cat([untouched[: -len(prediction)], prediction])
        denoiser.clear()
        for guidance in active:
            prediction = guidance.combine(denoiser, prediction)
        return prediction


def _with_predictions(output: Any, predictions: list[Any]) -> Any:
    """The transformer's output with other predictions, in the form it came in."""
    if isinstance(output, Tensor):
        return predictions[0]
    if isinstance(output, tuple):
        return tuple(predictions)
    return type(output)(**dict(zip(output, predictions, strict=True)))
