"""Which branch of classifier-free guidance a pipeline asks a transformer for, and whether it guides by itself."""

from typing import Any

from vidguide.tracing.run import Run
from vidguide.transformer.cache_context import Contexts
from vidguide.transformer.family import Family


class Branches:
    """What one transformer's calls are for, told by the pipeline; None as pipeline for a bare transformer."""

    def __init__(self, pipe: Any, family: Family, contexts: Contexts, run: Run) -> None:
        self.pipe, self.family, self.contexts, self.run = pipe, family, contexts, run
        self._last_call: tuple[int, int] | None = None
        self._guides = (-1, False)  # whether the pipeline guides, and of which run that is said

    def next(self) -> str:
        """The branch of the call that begins: by its cache context, or where the pipeline opens none, by the order of
        calls; so it is asked once per call."""
        if self.contexts.branch is not None:
            return self.contexts.branch
        if self.pipe is None or self.family.cfg != "two_calls":
            return "cond"
        step, self._last_call = self._last_call, (self.run.number, self.run.step)
        if self.run.steps is None or step != self._last_call:
            return "cond"
        self._last_call = None
        return "uncond"

    def pipeline_guides(self) -> bool:
        """Whether the pipeline at work applies classifier-free guidance of its own."""
        own = getattr(self.pipe, "do_classifier_free_guidance", None)
        if own is None and self.family.cfg == "batched":
            # Said only by the scale, which CogVideoX changes from step to step: the one it begins with counts.
            if self._guides[0] != self.run.number:
                self._guides = (self.run.number, (getattr(self.pipe, "_guidance_scale", None) or 1) > 1)
            own = self._guides[1]
        return bool(own)

    def halved(self) -> bool:
        """Whether the first half of the batch is unconditional."""
        return self.family.cfg == "batched" and self.pipeline_guides()
