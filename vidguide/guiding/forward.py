"""The conductor: runs each call of a guided transformer with the plans and corrections of its guidances."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vidguide.attention.plan import EMPTY, AttentionPlan
from vidguide.calls.call import Call, Correction
from vidguide.calls.encoded_prompts import encoded_prompts_of
from vidguide.calls.guided_model import guided_model
from vidguide.calls.negative_texts import NegativeTexts
from vidguide.calls.outputs import prediction_of, predictions_of, with_predictions
from vidguide.calls.run_cache import RunCache
from vidguide.guidances.base import Guidance
from vidguide.guiding.compatibility import (
    check_caches,
    check_caches_of_uncond,
    check_one_step,
    check_order,
    check_parallel,
    check_pipeline_cfg,
    check_steps_needed,
    check_together,
)
from vidguide.guiding.guided_pipeline import PipelineCalls
from vidguide.guiding.installation import Installation
from vidguide.guiding.ownership import Ownership
from vidguide.guiding.passes import Passes
from vidguide.guiding.step_counter import StepCounter
from vidguide.restoration import holding, restoring
from vidguide.transformer.cache_context import CacheContexts
from vidguide.transformer.caches import Caches
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.cfg_branch import BranchDetector
from vidguide.transformer.family import Inputs, Prompt
from vidguide.transformer.lists import as_batches
from vidguide.transformer.model_state import Identity
from vidguide.transformer.negative_text import ready_text
from vidguide.transformer.prediction_space import begin_index


class GuidedForward:
    """Wrap one transformer's forward and apply the guidances to its conditional calls.

    Args:
        transformer: as the pipeline holds it, possibly compiled.
        pipe: the pipeline, or None. guidances: all of this `guide`.
        steps: counts the steps of the sampling run.
        ownership: says whose calls are guided.
        calls: the calls of the pipeline, or None.
        texts: cache of encoded negative prompts.

    Attributes:
        peers: the conductors of all transformers of the run, including this one.
    """

    def __init__(
        self,
        transformer: Any,
        guidances: Sequence[Guidance],
        steps: StepCounter,
        ownership: Ownership,
        calls: PipelineCalls | None = None,
        texts: NegativeTexts | None = None,
    ) -> None:
        self.guidances, self.steps, self.run, self.calls = tuple(guidances), steps, steps.run, calls
        self.pipe, self.ownership = None if calls is None else calls.pipe, ownership
        self.model, blocks = guided_model(transformer, any(guidance.perturbs for guidance in guidances))
        self.installation = Installation(self.model, blocks, ownership.lock)
        self.contexts, self.caches = CacheContexts(self.model.original), Caches(self.model.original)
        self.branches = BranchDetector(self.pipe, self.model.family, self.contexts, self.run)
        self.peers: Sequence[GuidedForward] = (self,)
        self._signature = inspect.signature(type(self.model.original).forward)
        self._run_caches = {"cond": RunCache(), "weaker": RunCache()}
        self._texts = texts or NegativeTexts()
        self._within_call = False
        self._checked_run = -1  # number of the run that was checked before its first step
        self._shifts: dict[str, list[Any]] = {}  # of the other calls of this step, by branch and stream
        self._guided_step: tuple[int, int] | None = None  # run and step of the latest conditional call

    def check(self) -> None:
        """Refuse guidances that do not fit the model or each other."""
        for guidance in self.guidances:
            guidance.check(self.model, self.pipe)
        check_together(self.guidances, self.model)

    @contextmanager
    def intercepted(self) -> Iterator[None]:
        """Intercept attention and blocks within the block; restore modules, blocks and caches afterwards."""
        try:
            with restoring(self.restore), self.installation.intercepted():
                yield
        except BaseException:
            self.caches.reset()
            raise

    def restore(self) -> None:
        """Uninstall everything, and release what the caches of diffusers store for our passes."""
        self._end_call()
        self.installation.processors.restore()
        self.caches.refresh()
        self.caches.release()

    def __call__(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call of the transformer, after one that is at work in another thread; `forward` is its original call.

        Raises:
            RuntimeError: the guided pipeline samples in another thread.
        """
        with holding(self.ownership.lock):
            if self.ownership.closed or not self.ownership.owns():
                self.run.foreign_calls += 1
                return forward(*args, **kwargs)
            self.ownership.check_turn(type(self.model.original).__name__)
            return self._owned(forward, args, kwargs)

    def _owned(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call of an owner."""
        if self._within_call or self._writes_cache(args, kwargs):
            return forward(*args, **kwargs)  # an extra pass, or one that writes a key-value cache
        if self.calls is not None:
            self.steps.follow(self.calls.current_scheduler, self.pipe)
        branch, _ = self.branches.next_branch(), self.branches.pipeline_guides()
        if self.run.steps is None and (self.pipe is None or self.steps.scheduler is None):
            self.run.begin(None)  # nothing says which calls are of one run: cache nothing between them
        if branch == "cond" and self._checked_run != self.run.number:
            self._check_run(args, kwargs)
        active = self._active()
        if branch == "cond":
            self._guided_step, self._shifts = (self.run.number, self.run.step), {}
            return self._guided(active, branch, forward, args, kwargs)
        self._check_other(active, branch)
        if branch == "weaker":
            acting = [guidance for guidance in active if not guidance.once_a_step]
            return self._shifted(branch, self._guided(acting, branch, forward, args, kwargs))
        return self._shifted(branch, forward(*args, **kwargs))

    def _guided(
        self,
        active: list[Guidance],
        branch: str,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a conditional call under the guidances that act on it."""
        if not active:
            return forward(*args, **kwargs)
        with restoring(self._end_call):
            self._within_call = True
            return self._guide(active, branch, forward, self._bind(args, kwargs))

    def _end_call(self) -> None:
        self._within_call = False
        self.installation.clear()

    @property
    def negative(self) -> Prompt | None:
        """Negative prompt of the pipeline's call that is running; None outside of one."""
        return None if self.calls is None else self.calls.negative

    def _active(self) -> list[Guidance]:
        """Return the guidances that act at this step of this call."""
        run, negative = self.run, self.negative
        return [one for one in self.guidances if one.active(run.step, run.steps) and one.acts_on(negative)]

    def _encode_negative(self, inputs: Inputs, rows: int, prompt: Any, embeds: Any) -> Inputs:
        """Return the text inputs of a guidance's negative, or of the pipeline call's."""
        if embeds is not None:
            return ready_text(self.model.family, embeds, inputs, rows)
        arguments = self.negative if prompt is None else None
        arguments = arguments or self._prompt_of(prompt or "")
        run = Identity(self.run), self.run.number
        return self._texts.get(self.pipe, self.model.family, arguments, inputs, rows, run)

    def _writes_cache(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether a call writes a key-value cache that others read, or is one of those without the prompt."""
        reads_cache = self.model.family.reads_cache
        return reads_cache is not None and not reads_cache(self._arguments(args, kwargs))

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """Return a call's arguments by name."""
        arguments = dict(self._signature.bind(self.model.original, *args, **kwargs).arguments)
        arguments.pop("self")
        return arguments

    def _prompt_of(self, text: str | list[str]) -> Prompt:
        return {"prompt": text} if self.calls is None else self.calls.prompt_of(text)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """Return a call's arguments by name, lists as batches, with the text first in a packed sequence."""
        arguments = as_batches(self.model.family, self._arguments(args, kwargs))
        joint = self.model.family.joint
        return arguments if joint is None or joint.packed is None else joint.packed.text_first(arguments)

    def _call(self, inputs: Inputs, branch: str, passes: Passes | None) -> Call:
        """Return a conditional call as a value; before a run, when no pass may be run, without `passes`."""
        batch = Batch(self.branches.batch_is_halved(branch))
        rows = inputs[self.model.family.text_inputs[0]].shape[0]
        conditional_rows = rows - batch.start(rows)
        return Call(
            model=self.model,
            inputs=inputs,
            batch=batch,
            conditional_rows=conditional_rows,
            step=self.run.step,
            steps=self.run.steps,
            pipeline_guides=self.branches.pipeline_guides(),
            scheduler=self.steps.scheduler,
            encode_negative=functools.partial(self._encode_negative, inputs, conditional_rows),
            auxiliary_forward=_no_pass if passes is None else passes.auxiliary,
            cache=self._run_caches[branch],
            shared_cache=self.peers[0]._run_caches[branch],
            run=self.run.number,
        )

    def _check_run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse, before the first step of a run, what would fail or be wrong at a later step."""
        for peer in self.peers:
            peer.caches.refresh()
            peer.caches.release()
            for guidance in peer.guidances:
                check_caches(guidance, peer.model, peer.caches)
                check_parallel(guidance, peer.model)
        inputs = self._bind(args, kwargs)
        if self.run.steps is None and self.steps.loops:  # which opened no progress bar
            check_steps_needed(self.guidances, self.pipe)
        if self.run.step == 0 and self.pipe is not None:
            self.run.skip(begin_index(self.steps.scheduler, inputs.get("timestep")))
        self._check_guidances(self._call(inputs, "cond", None))
        if self.pipe is not None:
            self.run.current.note(encoded_prompts_of(self.pipe).notes())
        self._checked_run = self.run.number

    def _check_guidances(self, call: Call) -> None:
        """Refuse guidances that do not fit the calls of the run, and note those that are off."""
        for guidance in self.guidances:
            if guidance.neutral:
                continue
            if not guidance.acts_on(self.negative):
                self.run.current.note([f"{type(guidance).__name__}: off, as the call has no negative_prompt"])
            else:
                check_pipeline_cfg(guidance, call, self.pipe)
                check_one_step(guidance, call, self.pipe)
                guidance.check_run(call)

    def _check_other(self, active: list[Guidance], branch: str) -> None:
        """Refuse guidances that do not fit an unconditional or weaker call."""
        first = self._guided_step != (self.run.number, self.run.step)
        for guidance in active:
            if branch == "uncond":
                guidance.check_pipeline_guides()
                check_caches_of_uncond(guidance, self.model.family, self.caches)
            check_order(guidance, branch, first, self.run.steps)

    def _guide(self, active: list[Guidance], branch: str, forward: Callable[..., Any], inputs: Inputs) -> Any:
        """Run a conditional call: the unperturbed pass, corrections to its prediction, and the CFG rule."""
        passes = Passes(self.model, self.installation, self.contexts, self.caches, self.run, forward)
        call = self._call(inputs, branch, passes)
        if self.installation.blocks.modes and call.media is not None:
            self.installation.blocks.set_tokens(call.media[-1])
        for guidance in active:
            call = guidance.change_inputs(call)
        plan = self._plan(active, call)
        with self.installation.installed(plan, call.batch):
            output = forward(**call.inputs)
            if branch == "cond":
                self._trace()
                self.run.current.note(plan.notes)
        original = prediction_of(output)
        cond = call.batch.conditional(original)
        corrections = self._corrections(active, passes, call, plan, cond)
        inside = [correction for correction in corrections if correction.before_cfg]
        outside = [correction for correction in corrections if not correction.before_cfg]
        predictions = [_add(call, original, inside), *predictions_of(output)[1:]]
        for guidance in active:
            predictions = guidance.combine(call, predictions, functools.partial(passes.unconditional, call))
        if outside:
            predictions[0] = self._add_to_guided(call, predictions[0], outside, cond)
        if predictions[0] is original:
            return output
        self._shifts["weaker"] = [
            _difference(new, old, call.conditional_rows)
            for new, old in zip(predictions, predictions_of(output), strict=True)
        ]
        return with_predictions(output, predictions)

    def _add_to_guided(self, call: Call, prediction: Tensor, corrections: list[Correction], cond: Tensor) -> Tensor:
        """Return the prediction with corrections that are not scaled by classifier-free guidance.

        Where the pipeline combines two predictions as `u + w (c - u)`, the result moves by `d` when both move by `d`,
        whatever `w` is: so `d` is also added to the other half of the batch, or to the unconditional call of this step.
        """
        shift = functools.reduce(torch.add, (correction.value for correction in corrections))
        self._shifts["uncond"] = [shift]
        if len(shift) < len(prediction):
            return prediction + torch.cat([shift, shift])
        return call.rescale(prediction + shift, cond, corrections[0].rescale)

    def _shifted(self, branch: str, output: Any) -> Any:
        """Return the output of an unconditional or weaker call, moved by the change of this step's conditional one.

        LTX-2 adds `s (c - p)` for each weaker prediction p. A guidance of the conditional prediction is not part of
        that difference: p moves by all that c does, the unconditional one only by what CFG must not scale.
        """
        shifts = self._shifts.get(branch) if self._guided_step == (self.run.number, self.run.step) else None
        if shifts is None:
            return output
        predictions = predictions_of(output)
        moved = [old if shift is None else old + shift for old, shift in zip(predictions, shifts, strict=False)]
        return with_predictions(output, [*moved, *predictions[len(moved) :]])

    def _plan(self, active: list[Guidance], call: Call) -> AttentionPlan:
        """Return the plans of all guidances as one."""
        self.installation.processors.refresh()
        return functools.reduce(AttentionPlan.__or__, (guidance.plan(call) for guidance in active), EMPTY)

    def _trace(self) -> None:
        """Record what the edits measured in the pass that just ran."""
        for site in self.installation.text_sites:
            if site.measured is not None:
                self.run.current.add(self.run.step, site.layer, site.stream, site.measured)

    def _corrections(
        self, active: list[Guidance], passes: Passes, call: Call, plan: AttentionPlan, cond: Tensor
    ) -> list[Correction]:
        """Return the corrections of all guidances, each computed from the unperturbed conditional prediction.

        In the order of the guidances' names, so that their sum has the same bits whatever the order of the guidances.
        """
        corrections: dict[str, Correction | None] = {}
        for guidance in active:
            name = type(guidance).__name__
            corrections[name] = guidance.correction(call, cond, passes.rerun(call, plan, name))
        return [correction for _, correction in sorted(corrections.items()) if correction is not None]


def _add(call: Call, prediction: Tensor, corrections: list[Correction]) -> Tensor:
    """Add corrections to a prediction's conditional rows, which are its last ones."""
    if not corrections:
        return prediction
    rows = len(corrections[0].value)
    cond = prediction[-rows:]
    corrected = functools.reduce(torch.add, (correction.value for correction in corrections), cond)
    corrected = call.rescale(corrected, cond, corrections[0].rescale)
    return corrected if rows == len(prediction) else torch.cat([prediction[:-rows], corrected])


def _difference(new: Any, old: Any, rows: int) -> Any:
    """Return how far the last rows of a prediction moved; None if they did not."""
    return None if new is old or not isinstance(new, Tensor) else new[-rows:] - old[-rows:]


def _no_pass(plan: AttentionPlan, inputs: Inputs) -> Any:
    raise RuntimeError("extra passes can be run only during a guided call")
