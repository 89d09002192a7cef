"""A guided transformer: what happens around each of its calls."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidguide.batch import Batch
from vidguide.blocks import Blocks
from vidguide.caches import OWN, Caches
from vidguide.contexts import Contexts
from vidguide.eager import eager
from vidguide.family import Family, Inputs, family_of
from vidguide.guidance import Guidance
from vidguide.joint import TEXT, Stream, carrying
from vidguide.negative import ready_text, repeat_rows, text_shape
from vidguide.run import Run
from vidguide.seam import Site
from vidguide.tokens import grid
from vidguide.wiring import blocks_in_order, find_self_sites, find_text_sites, rebind, routed

Kept = TypeVar("Kept")


class Denoiser:
    """One transformer under `guide`: its attention sites, the branch it is asked for, and the guidances' doings.

    Guidances use `depth`, `text_sites`, `self_sites`, `inputs`, `negative_text`, `predict`, `weak` and `kept`.
    """

    def __init__(self, transformer: Any, pipe: Any, guidances: tuple[Guidance, ...], run: Run) -> None:
        self.transformer, self.pipe, self.guidances, self.run = transformer, pipe, guidances, run
        self.original = getattr(transformer, "_orig_mod", transformer)  # under torch.compile
        self.family: Family = family_of(self.original)
        self.signature = inspect.signature(type(self.original).forward)
        self.contexts, self.caches = Contexts(self.original), Caches(self.original)
        self.stream: Stream | None = None  # a second text that this call carries, in joint attention
        self.batch = Batch()
        self.depth = sum(len(self.original.get_submodule(path)) for path in self.family.blocks)
        self.text_sites = find_text_sites(self.family, self.original)
        self.perturbed = any(guidance.weak for guidance in guidances)
        self.blocks = Blocks([], (), False)
        self.self_sites: dict[str, dict[int, Site]] = {}
        if self.perturbed:
            outputs = self.family.block_output + ((TEXT,) if self.family.joint else ())
            self.blocks = Blocks(blocks_in_order(self.family, self.original), outputs, self.family.joint is not None)
            self.self_sites = find_self_sites(self.family, self.blocks, self.text_sites, self.batch)
        every = [*self.text_sites.values(), *(site for sites in self.self_sites.values() for site in sites.values())]
        self.sites = list(dict.fromkeys(every))  # in joint attention a site is the text's and the video's
        self.inputs: Inputs = {}
        self._call: Callable[..., Any] | None = None
        self._last_call: tuple[int, int] | None = None
        self._checked = -1  # the run before whose first step all was looked at
        self.peers: list[Denoiser] = [self]  # all that take turns in a run
        self._guides = (-1, False)  # whether the pipeline guides, and of which run that is said
        self._kept: dict[int, tuple[Any, Any]] = {}
        self._texts: dict[Any, Inputs] = {}

    @contextmanager
    def rebound(self) -> Iterator[None]:
        """Route attention through the sites; on leaving, modules and blocks are as they were."""
        try:
            with routed(self.original, self.sites), self.blocks.staged():
                yield
        except BaseException:
            self.caches.look()
            self.caches.reset()
            raise
        finally:
            self.caches.look()
            self.caches.forget()

    def __call__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand around one call of the transformer; `call` is the transformer's own."""
        if self._call is not None:
            return call(*args, **kwargs)
        branch, _ = self._next_branch(), self.pipeline_guides()
        if self.pipe is None and self.run.steps is None:
            self.run.begin(None)  # nothing tells one sampling from the next: keep nothing between calls
        if branch == "cond" and self._checked != self.run.number:
            self._check_run(args, kwargs)
        active = [guidance for guidance in self.guidances if guidance.active(self.run.progress)]
        if branch != "cond":
            for guidance in active:
                guidance.beside_uncond()
                self.caches.check_uncond(guidance, self.family)
        if branch != "cond" or not active:
            return call(*args, **kwargs)
        try:
            self._call, self.inputs = call, self._bind(args, kwargs)
            changed = self._prepare(active)
            with carrying(self.stream):
                output = call(*args, **kwargs) if changed is None else call(**changed)
            self._record()
            prediction = self._guided(active, prediction_of(output))
            return output if prediction is prediction_of(output) else _with_prediction(output, prediction)
        finally:
            self._clear()
            self.blocks.forget()
            self._call, self.inputs = None, {}

    def _prepare(self, active: list[Guidance]) -> Inputs | None:
        """Let the guidances prepare for the call that comes next; the arguments for it, where one changes them."""
        rebind(self.sites)
        for site in self.sites:
            site.calls = 0
        own = self.inputs
        for guidance in active:
            self.inputs = guidance.change_inputs(self, self.inputs)
        for guidance in active:
            guidance.prepare(self)
        return None if self.inputs is own else self.inputs

    def _check_run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first step of a run, refuse what would be found out, or be wrong, in the middle of it."""
        for denoiser in self.peers:
            denoiser.caches.look()
            denoiser.caches.forget()
            for guidance in self.guidances:
                denoiser.caches.check(guidance, denoiser.family, denoiser.depth)
        try:
            self.inputs = self._bind(args, kwargs)
            for guidance in self.guidances:
                if not guidance.neutral:
                    guidance.check_run(self)
        finally:
            self.inputs = {}
        self._checked = self.run.number

    def _guided(self, active: list[Guidance], untouched: Tensor) -> Tensor:
        """The conditional prediction with every correction added, then combined with the unconditional one."""
        self.blocks.stop_keeping()
        for site in self.sites:
            site.watchers.clear()
        cond = self.batch.conditional(untouched)
        found = [guidance.correction(self, cond) for guidance in active]
        corrections = [correction for correction in found if correction is not None]
        prediction = sum(corrections, cond) if corrections else untouched
        if len(prediction) < len(untouched):
            prediction = torch.cat([untouched[: -len(prediction)], prediction])
        self._clear()
        for guidance in active:
            prediction = guidance.combine(self, prediction)
        return prediction

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        self.batch.halved = self.family.cfg == "batched" and self.pipeline_guides()
        arguments = dict(self.signature.bind(self.original, *args, **kwargs).arguments)
        arguments.pop("self")
        return arguments

    def _next_branch(self) -> str:
        """Which branch the pipeline asks for: by its cache context, or where it opens none, by its order of calls."""
        if self.contexts.branch is not None:
            return self.contexts.branch
        if self.pipe is None or self.family.cfg != "two_calls":
            return "cond"
        step, self._last_call = self._last_call, (self.run.number, self.run.step)
        if self.run.steps is None or step != self._last_call:
            return "cond"
        self._last_call = None
        return "uncond"

    def _record(self) -> None:
        for site in self.text_sites.values():
            measured = getattr(site.edit, "measured", None)
            if measured is not None:
                self.run.trace.add(self.run.step, site.layer, measured)

    def _clear(self) -> None:
        self.stream = None
        for site in self.sites:
            site.edit = site.weak = None
            site.watchers.clear()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Without the edits that guidances have set so far, which are set again afterwards."""
        edits, stream = [(site, site.edit, [*site.watchers]) for site in self.sites], self.stream
        self._clear()
        try:
            yield
        finally:
            self.stream = stream
            for site, edit, watchers in edits:
                site.edit, site.watchers = edit, watchers

    def kept(self, owner: Guidance, make: Callable[[], Kept], text_varies: bool = False) -> Kept:
        """What `make` returns, kept for the run, and made again when a shape, dtype or device changes; at each step,
        when it is of a text that the model makes anew at each step."""
        step = self.run.step if text_varies and self.family.text_varies(self.original.config) else None
        tensors = [v for v in self.inputs.values() if isinstance(v, Tensor)]
        key = (self.run.number, step, [(tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in tensors])
        if self._kept.get(id(owner), (None,))[0] != key:
            self._kept[id(owner)] = (key, make())
        kept: Kept = self._kept[id(owner)][1]
        return kept

    def check_negative(self, owner: Guidance, prompt: str | list[str] | None, embeds: Any) -> None:
        """Refuse a negative in words where there is nothing to encode it."""
        if embeds is not None:
            return
        if self.pipe is None:
            lack = "a bare transformer cannot encode text; pass negative_prompt_embeds, or guide the pipeline"
        elif not hasattr(self.pipe, "encode_prompt"):
            lack = f"{type(self.pipe).__name__} has no encode_prompt; pass negative_prompt_embeds"
        elif getattr(self.pipe, "text_encoder", self) is None:
            lack = f"the {type(self.pipe).__name__} has no text_encoder; load it, or pass negative_prompt_embeds"
        else:
            return
        raise ValueError(f"{type(owner).__name__}(negative_prompt={prompt!r}): {lack}")

    def negative_text(self, prompt: str | list[str] | None, embeds: Any) -> Inputs:
        """The text inputs of a negative, encoded as the pipeline encodes its prompt and kept while in `guide`.

        Raises:
            ValueError: embeddings of another width, or a number of negatives that does not divide the batch.
        """
        if embeds is not None:
            return ready_text(self.family, embeds, self.inputs, self.conditional)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [""])
        shape, dtype, device = text_shape(self.family, self.inputs)
        key = (*prompts, shape[1:], dtype, device)
        if key not in self._texts:
            with torch.no_grad():
                self._texts[key] = self.family.encode(self.pipe, prompts, self.inputs)
        return ready_text(self.family, self._texts[key], self.inputs, self.conditional)

    def aside(self, inputs: Inputs) -> None:
        """Let the model see other inputs, for what its parts are given. Eager: a call of its own shape would cost a
        compiled model a compilation of its own, or turn it dynamic."""
        with torch.no_grad(), eager(), self.caches.bypassed():
            self._original_call(inputs)

    def weak(self, first: int, name: str) -> Tensor:
        """The conditional prediction once more, perturbed as sites and blocks now are; blocks whose place is before
        `first` are not run again.

        A cache runs all blocks: it decides at the first of them, and what it left out in the clean pass is no record
        to begin from. It keeps a state for each `name`.
        """
        inputs = self.batch.inputs(self.inputs)
        with ExitStack() as stack:
            if not self.caches.hooks:
                stack.enter_context(self.blocks.skipped_before(first, self.batch))
            stack.enter_context(self.batch.alone())
            stack.enter_context(carrying(self.stream))
            stack.enter_context(self.contexts.aside(f"{OWN}{name}"))
            return prediction_of(self._original_call(inputs))

    def grid(self) -> tuple[int, int, int]:
        """The video's token grid (F, H, W) in the call at work."""
        return grid(self.family, self.original, self.inputs)

    def predict(self, branch: str, text: Inputs) -> Tensor:
        """The model's prediction for another text, on the same video and without our edits."""
        with self.contexts.aside(branch):
            return prediction_of(self._original_call({**self.inputs, **self.of_every_row(text)}))

    def of_every_row(self, text: Inputs) -> Inputs:
        """A text for every conditional row of the batch."""
        return {name: repeat_rows(value, self.conditional) for name, value in text.items()}

    def _original_call(self, inputs: Inputs) -> Any:
        if self._call is None:
            raise RuntimeError("the model can be asked for a prediction only during a guided call")
        return self._call(**inputs)

    def pipeline_guides(self) -> bool:
        """Whether the pipeline at work applies classifier-free guidance of its own."""
        own = getattr(self.pipe, "do_classifier_free_guidance", None)
        if own is None and self.family.cfg == "batched":
            # Said only by the scale, which CogVideoX changes from step to step: the one it begins with counts.
            if self._guides[0] != self.run.number:
                self._guides = (self.run.number, (getattr(self.pipe, "_guidance_scale", None) or 1) > 1)
            own = self._guides[1]
        return bool(own)

    @property
    def conditional(self) -> int:
        """Rows of the batch that are conditional."""
        rows: int = self.inputs[self.family.text_inputs[0]].shape[0]
        return rows - self.batch.start(rows)


def prediction_of(output: Any) -> Tensor:
    """The prediction in a transformer's output, in whichever form it comes."""
    prediction = output if isinstance(output, Tensor) else output[0]
    if not isinstance(prediction, Tensor):
        raise TypeError(f"the transformer returned {type(prediction).__name__} where a tensor was expected")
    return prediction


def _with_prediction(output: Any, prediction: Tensor) -> Any:
    """The transformer's output with another prediction, in the form it came in."""
    if isinstance(output, Tensor):
        return prediction
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    return type(output)(**{**output, "sample": prediction})
