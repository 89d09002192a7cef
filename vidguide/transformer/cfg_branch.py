"""Detect which branch of classifier-free guidance a call of a pipeline is, and whether the pipeline applies CFG."""

from typing import Any

from vidguide.tracing.run import Run
from vidguide.transformer.cache_context import CacheContexts
from vidguide.transformer.family import Family


class BranchDetector:
    """The CFG branches of one transformer's calls.

    Args:
        pipe: the pipeline; None for a bare transformer, whose calls are all conditional.

    Attributes:
        given: branch of the call that begins, where the caller knows it.
    """

    def __init__(self, pipe: Any, family: Family, contexts: CacheContexts, run: Run) -> None:
        self.pipe, self.family, self.contexts, self.run = pipe, family, contexts, run
        self.given: str | None = None
        self._last_call: tuple[int, int] | None = None
        self._guides = (-1, False)  # number of a run, and whether the pipeline applies CFG in it

    def next_branch(self) -> str:
        """Return the branch of the call that begins, "cond", "uncond" or "weaker"; ask once per call.

        The name of its cache context decides, or where the pipeline opens none, the order of calls.
        """
        branch = self.given or self.contexts.branch
        if branch is not None:
            return branch
        if self.pipe is None or self.family.cfg != "two_calls":
            return "cond"
        step, self._last_call = self._last_call, (self.run.number, self.run.step)
        if self.run.steps is None or step != self._last_call:
            return "cond"
        self._last_call = None
        return "uncond"

    def pipeline_guides(self) -> bool:
        """Return whether the pipeline applies classifier-free guidance in this run."""
        guides = getattr(self.pipe, "do_classifier_free_guidance", None)
        if guides is None and self.family.cfg == "batched":
            # Known from the scale only, which CogVideoX changes from step to step: use the run's first one.
            if self._guides[0] != self.run.number:
                self._guides = (self.run.number, (getattr(self.pipe, "_guidance_scale", None) or 1) > 1)
            guides = self._guides[1]
        return bool(guides)

    def batch_is_halved(self, branch: str) -> bool:
        """Return whether the first half of the batch of a call of this branch is unconditional."""
        return branch == "cond" and self.family.cfg == "batched" and self.pipeline_guides()
