"""A guided transformer: what happens around each of its calls."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidguide.blocks import Blocks
from vidguide.caches import OWN, Caches
from vidguide.contexts import Contexts
from vidguide.eager import eager
from vidguide.family import Family, Inputs, family_of
from vidguide.guidance import Guidance
from vidguide.joint import Stream, capture_stream, carrying
from vidguide.negative import ready_text, repeat_rows, text_shape
from vidguide.run import Run
from vidguide.seam import Kernel
from vidguide.tokens import one_token
from vidguide.wiring import find_self_sites, find_text_sites, rebind, routed

Kept = TypeVar("Kept")


class Capture:
    """An edit that changes nothing and keeps the keys, values and mask that the kernel was called with."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor, Tensor | None] | None = None

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.kept = (key, value, kernel.mask)
        return kernel(query, key, value, kernel.mask)


class Denoiser:
    """One transformer under `guide`: its attention sites, the branch it is asked for, and the guidances' doings.

    Guidances use `depth`, `text_sites`, `inputs`, `negative_text`, `text_keys_values`, `predict` and `kept`.
    """

    def __init__(self, transformer: Any, pipe: Any, guidances: tuple[Guidance, ...], run: Run) -> None:
        self.transformer, self.pipe, self.guidances, self.run = transformer, pipe, guidances, run
        self.original = getattr(transformer, "_orig_mod", transformer)  # under torch.compile
        self.family: Family = family_of(self.original)
        self.signature = inspect.signature(type(self.original).forward)
        self.contexts, self.caches = Contexts(self.original), Caches(self.original)
        self.stream: Stream | None = None  # a second text that this call carries, in joint attention
        blocks = [block for path in self.family.blocks for block in self.original.get_submodule(path)]
        self.blocks = Blocks(blocks, self.family.block_output)
        self.depth = len(blocks)
        self.perturbed = any(guidance.weak for guidance in guidances)
        self.text_sites = find_text_sites(self.family, self.original)
        self.self_sites = find_self_sites(self.family, blocks) if self.perturbed else {}
        self.sites = [*self.text_sites.values(), *self.self_sites.values()]
        self.inputs: Inputs = {}
        self._call: Callable[..., Any] | None = None
        self._last_call: tuple[int, int] | None = None
        self._checked = -1  # the run before whose first step all was looked at
        self._guides = (-1, False)  # whether the pipeline guides, and of which run that is said
        self._kept: dict[int, tuple[Any, Any]] = {}
        self._texts: dict[Any, Inputs] = {}

    @contextmanager
    def rebound(self) -> Iterator[None]:
        """Route attention through the sites; on leaving, modules and blocks are as they were."""
        try:
            with routed(self.sites), self.blocks.staged() if self.perturbed else nullcontext():
                yield
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
        self._check_run()
        active = [guidance for guidance in self.guidances if guidance.active(self.run.progress)]
        if branch != "cond":
            for guidance in active:
                guidance.beside_uncond()
                self.caches.check_uncond(guidance, self.family)
        if branch != "cond" or not active:
            return call(*args, **kwargs)
        try:
            self._call, self.inputs = call, self._bind(args, kwargs)
            rebind(self.sites)
            for guidance in active:
                guidance.prepare(self)
            with carrying(self.stream):
                output = call(*args, **kwargs)
            self._record()
            prediction = self._guided(active, prediction_of(output))
            return output if prediction is prediction_of(output) else _with_prediction(output, prediction)
        finally:
            self._clear()
            self.blocks.forget()
            self._call, self.inputs = None, {}

    def _check_run(self) -> None:
        """Before the first step of a run, refuse what would be found out, or be wrong, in the middle of it."""
        if self._checked == self.run.number:
            return
        self.caches.look()
        self.caches.forget()
        for guidance in self.guidances:
            self.caches.check(guidance, self.family, self.depth)
        self._checked = self.run.number

    def _guided(self, active: list[Guidance], untouched: Tensor) -> Tensor:
        """The conditional prediction with every correction added, then combined with the unconditional one."""
        self.blocks.stop_keeping()
        self._clear_queries()
        prediction = untouched
        for guidance in active:
            correction = guidance.correction(self, untouched)
            if correction is not None:
                prediction = prediction + self._of_conditional(correction)
        self._clear()
        for guidance in active:
            prediction = guidance.combine(self, prediction)
        return prediction

    def _of_conditional(self, correction: Tensor) -> Tensor:
        """A correction of the conditional half alone, where the batch holds another."""
        if not self.halved:
            return correction
        half = correction.shape[0] // 2
        return torch.cat([torch.zeros_like(correction[:half]), correction[half:]])

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
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
            site.edit = site.query = None

    @contextmanager
    def _suspended(self) -> Iterator[None]:
        """Without the edits that guidances have set so far, which are set again afterwards."""
        edits, stream = [(site, site.edit, site.query) for site in self.sites], self.stream
        self._clear()
        try:
            yield
        finally:
            self.stream = stream
            for site, edit, query in edits:
                site.edit, site.query = edit, query

    def _clear_queries(self) -> None:
        """What watches the clean pass must not watch the weak ones; edits of the text's attention stay for both."""
        for site in self.self_sites.values():
            site.query = site.edit = None

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
        """Refuse a negative in words where there is no pipeline to encode it."""
        if embeds is None and self.pipe is None:
            name = type(owner).__name__
            raise ValueError(
                f"{name}(negative_prompt={prompt!r}): a bare transformer cannot encode text; pass "
                "negative_prompt_embeds, or guide the pipeline"
            )

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

    def text_keys_values(self, text: Inputs) -> dict[int, tuple[Tensor, Tensor, Tensor | None]]:
        """Keys, values and mask of a text at the text attentions, made by the model itself over one video token."""
        inputs = one_token(self.family, self.original, self.inputs, text)
        captures = {number: Capture() for number in self.text_sites}
        with self._suspended():
            for number, site in self.text_sites.items():
                site.edit = captures[number]
            self._aside(inputs)
        # An attention that is not asked here (audio's, when there is no audio) is not asked in the guided call either.
        kept = {number: capture.kept for number, capture in captures.items() if capture.kept is not None}
        if not kept:
            raise RuntimeError(f"no block of {type(self.original).__name__} attended to the text")
        return kept

    def text_stream(self, text: Inputs) -> Stream:
        """A text as it reaches the first block of joint attention, to be carried by the guided call."""
        inputs = {**self.inputs, **self._batched(text)}
        with self._suspended():
            return capture_stream(self.family, self.original, self.halved, lambda: self._aside(inputs))

    def _aside(self, inputs: Inputs) -> None:
        # Eager: a call of its own shape would cost a compiled model a compilation of its own, or turn it dynamic.
        with torch.no_grad(), eager(), self.caches.bypassed():
            self._original_call(inputs)

    def weak(self, first: int, name: str) -> Tensor:
        """The model's prediction once more, with the edits now set; blocks before `first` are not run again.

        A cache runs all blocks: it decides at the first of them, and what it left out in the clean pass is no record
        to begin from. It keeps a state for each `name`.
        """
        skipped = nullcontext() if self.caches.hooks else self.blocks.skipped_before(first)
        with skipped, carrying(self.stream), self.contexts.aside(f"{OWN}{name}"):
            return prediction_of(self._original_call(self.inputs))

    def predict(self, branch: str, text: Inputs) -> Tensor:
        """The model's prediction for another text, on the same video and without our edits."""
        with self.contexts.aside(branch):
            return prediction_of(self._original_call({**self.inputs, **self._batched(text)}))

    def _batched(self, text: Inputs) -> Inputs:
        """A text for every conditional row of the batch, and for the unconditional ones that come before them."""
        return {name: repeat_rows(value, self.conditional, self.halved) for name, value in text.items()}

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
    def halved(self) -> bool:
        """Whether the call at work holds an unconditional half, before the conditional one."""
        return self.family.cfg == "batched" and self.pipeline_guides()

    @property
    def conditional(self) -> int:
        """Rows of the batch that are conditional."""
        rows: int = self.inputs[self.family.text_inputs[0]].shape[0]
        return rows // 2 if self.halved else rows


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
