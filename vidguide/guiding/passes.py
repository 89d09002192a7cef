"""The forward passes of one guided call: auxiliary, perturbed and unconditional ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.calls.call import Call, Recorded
from vidguide.calls.guided_model import GuidedModel
from vidguide.calls.outputs import prediction_of, predictions_of
from vidguide.guiding.installation import Installation
from vidguide.tracing.run import PerturbedPass, Run, SampleChoice
from vidguide.tracing.stopwatch import Stopwatch
from vidguide.transformer.cache_context import CacheContexts
from vidguide.transformer.caches import PREFIX, Caches
from vidguide.transformer.cfg_batch import ALL_CONDITIONAL
from vidguide.transformer.compile import force_eager
from vidguide.transformer.family import Inputs


@dataclass(frozen=True, eq=False)
class Passes:
    """The extra passes of a guided transformer.

    Attributes:
        forward: the transformer's original call.
    """

    model: GuidedModel
    installation: Installation
    contexts: CacheContexts
    caches: Caches
    run: Run
    forward: Callable[..., Any]

    def auxiliary(self, plan: AttentionPlan, inputs: Inputs) -> Recorded:
        """Run an eager pass that records activations; return the keys, values and masks of the plan's recorded sites.

        Eager, because a call with new shapes would recompile a compiled model, or make it dynamic. Where gradients are
        enabled, they pass through what was recorded.
        """
        with (
            force_eager(),
            self.caches.disabled(),
            self.model.parallel.disabled(),
            self.installation.recorded(plan) as recorded,
            self.installation.installed(plan, ALL_CONDITIONAL),
        ):
            self.forward(**inputs)
        return recorded

    def rerun(self, call: Call, edits: AttentionPlan, name: str) -> "Rerunner":
        """Return a function that runs the conditional rows of a call again, under a plan on top of its edits."""
        return Rerunner(self, call, replace(edits, observers={}, rerun_from=frozenset()), name)

    def unconditional(self, call: Call, text: Inputs) -> list[Any]:
        """Run the call with another text and nothing installed; return all predictions."""
        family, text = call.model.family, call.repeat(text)
        inputs = family.uncond(call.inputs, text) if family.uncond is not None else {**call.inputs, **text}
        with self.contexts.extra("uncond"):
            return predictions_of(self.forward(**inputs))


@dataclass(frozen=True, eq=False)
class Rerunner:
    """Runs the conditional call once more, perturbed; see :class:`vidguide.calls.call.Rerun`.

    Blocks before the first that differs are not run again. Under a cache of diffusers all blocks run: it decides at the
    first of them, and what it skipped in the unperturbed pass was not recorded. It stores a state for each name.
    """

    passes: Passes
    call: Call
    edits: AttentionPlan
    name: str

    def __call__(self, plan: AttentionPlan, layers: Sequence[int] = (), samples: Sequence[SampleChoice] = ()) -> Tensor:
        passes, stopwatch = self.passes, Stopwatch(self.call.device)
        first = 0 if passes.caches.hooks else plan.first_block
        with (
            stopwatch,
            passes.installation.blocks.starting_at(first, self.call.batch),
            passes.installation.installed(self.edits | plan, ALL_CONDITIONAL),
            passes.contexts.extra(f"{PREFIX}{self.name}"),
        ):
            output = passes.forward(**self.call.batch.conditional_inputs(self.call.inputs))
        record = PerturbedPass(self.call.step, self.name, tuple(layers), tuple(samples), stopwatch)
        passes.run.current.choices.append(record)
        return prediction_of(output)
