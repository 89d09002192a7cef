"""A guided transformer: what happens around each of its calls."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidguide.blocks import Blocks
from vidguide.family import Family, Inputs, family_of
from vidguide.guidance import Guidance
from vidguide.run import Run
from vidguide.seam import SITE, Kernel, Site, rebound, rebound_class

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
        self.open_context = getattr(type(self.original), "cache_context", None)
        modules: Any = self.original.get_submodule(self.family.blocks)
        self.blocks = Blocks(list(modules), self.family.skip)
        self.depth = len(self.blocks.blocks)
        self.text_sites = self._find_sites(self.family.text_attention, self.family.text_kernel)
        self.self_sites = self._find_sites(self.family.self_attention, self.family.self_kernel)
        self.perturbed = any(guidance.weak for guidance in guidances)
        self.sites = [*self.text_sites.values(), *(self.self_sites.values() if self.perturbed else ())]
        self.branch = "cond"
        self.outer: tuple[str, dict[str, Any]] | None = None  # the pipeline's cache context, while it is in one
        self.inputs: Inputs = {}
        self._call: Callable[..., Any] | None = None
        self._kept: dict[int, tuple[Any, Any]] = {}
        self._texts: dict[Any, Inputs] = {}

    def _find_sites(self, name: str, index: int) -> dict[int, Site]:
        sites = {}
        for layer, block in enumerate(self.blocks.blocks):
            attention = block.get_submodule(name)
            own: Any = type(attention.processor)
            sites[layer] = Site(layer, attention, range(rebound_class(own)[1])[index])
        return sites

    @contextmanager
    def rebound(self) -> Iterator[None]:
        """Route the attentions' kernel calls through their sites; on leaving, each has its own processor again."""
        try:
            for site in self.sites:
                setattr(site.attention, SITE, site)
            self._rebind()
            with self.blocks.staged() if self.perturbed else nullcontext():
                yield
        finally:
            for site in self.sites:
                vars(site.attention).pop(SITE, None)
                if site.routed is not None and site.attention.processor is site.routed:
                    site.attention.processor = site.own

    def _rebind(self) -> None:
        """Rebind processors, also those that the user replaced since (by `fuse_qkv_projections`, say)."""
        for site in self.sites:
            if site.attention.processor is not site.routed:
                site.own = site.attention.processor
                site.routed = site.attention.processor = rebound(site.own)

    def __call__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand around one call of the transformer; `call` is the transformer's own."""
        if self._call is not None or self.branch != "cond":
            return call(*args, **kwargs)
        if self.pipe is None and self.run.steps is None:
            self.run.begin(None)  # nothing tells one sampling from the next: keep nothing between calls
        active = [guidance for guidance in self.guidances if guidance.active(self.run.progress)]
        if not active:
            return call(*args, **kwargs)
        try:
            self._call, self.inputs = call, self._bind(args, kwargs)
            self._rebind()
            for guidance in active:
                guidance.prepare(self)
            output = call(*args, **kwargs)
            self._record()
            prediction = self._guided(active, output[0])
            return output if prediction is output[0] else _with_prediction(output, prediction)
        finally:
            self._clear()
            self.blocks.forget()
            self._call, self.inputs = None, {}

    def _guided(self, active: list[Guidance], untouched: Tensor) -> Tensor:
        """The conditional prediction with every correction added, then combined with the unconditional one."""
        self.blocks.stop_keeping()
        self._clear_queries()
        prediction = untouched
        for guidance in active:
            correction = guidance.correction(self, untouched)
            prediction = prediction if correction is None else prediction + correction
        self._clear()
        for guidance in active:
            prediction = guidance.combine(self, prediction)
        return prediction

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        arguments = dict(self.signature.bind(self.original, *args, **kwargs).arguments)
        arguments.pop("self")
        return arguments

    def _record(self) -> None:
        for layer, site in self.text_sites.items():
            measured = getattr(site.edit, "measured", None)
            if measured is not None:
                self.run.trace.add(self.run.step, layer, measured)

    def _clear(self) -> None:
        for site in self.sites:
            site.edit = site.query = None

    @contextmanager
    def _suspended(self) -> Iterator[None]:
        """Without the edits that guidances have set so far, which are set again afterwards."""
        edits = [(site, site.edit, site.query) for site in self.sites]
        self._clear()
        try:
            yield
        finally:
            for site, edit, query in edits:
                site.edit, site.query = edit, query

    def _clear_queries(self) -> None:
        """What watches the clean pass must not watch the weak ones; edits of the text's attention stay for both."""
        for site in self.self_sites.values():
            site.query = site.edit = None

    def kept(self, owner: Guidance, make: Callable[[], Kept]) -> Kept:
        """What `make` returns, kept for the run, and made again when a shape, dtype or device changes."""
        tensors = [self.inputs[self.family.text_inputs[0]], *(v for v in self.inputs.values() if isinstance(v, Tensor))]
        key = (self.run.number, [(tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in tensors])
        if self._kept.get(id(owner), (None,))[0] != key:
            self._kept[id(owner)] = (key, make())
        kept: Kept = self._kept[id(owner)][1]
        return kept

    def check_negative(self, owner: Guidance, prompt: str | list[str] | None, embeds: Tensor | None) -> None:
        """Refuse a negative in words where there is no pipeline to encode it."""
        if embeds is None and self.pipe is None:
            name = type(owner).__name__
            raise ValueError(
                f"{name}(negative_prompt={prompt!r}): a bare transformer cannot encode text; pass "
                "negative_prompt_embeds, or guide the pipeline"
            )

    def negative_text(self, prompt: str | list[str] | None, embeds: Tensor | None) -> Inputs:
        """The text inputs of a negative, encoded as the pipeline encodes its prompt and kept while in `guide`.

        Raises:
            ValueError: embeddings of another width, or a number of negatives that does not divide the batch.
        """
        name = self.family.text_inputs[0]
        own = self.inputs[name]
        if embeds is not None:
            text = {name: embeds.to(own)}
        else:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt or [""])
            key = (*prompts, tuple(own.shape[1:]), own.dtype, own.device)
            if key not in self._texts:
                with torch.no_grad():
                    encoded = self.family.encode(self.pipe, prompts, self.inputs)
                self._texts[key] = {key: tensor.to(own) for key, tensor in encoded.items()}
            text = self._texts[key]
        if text[name].shape[-1] != own.shape[-1]:
            shape = tuple(text[name].shape)
            raise ValueError(f"negative_prompt_embeds {shape}: the model's text is {own.shape[-1]} wide")
        if own.shape[0] % text[name].shape[0]:
            raise ValueError(
                f"{text[name].shape[0]} negative prompts for a batch of {own.shape[0]}: give one, or one per prompt"
            )
        return text

    def text_keys_values(self, text: Inputs) -> dict[int, tuple[Tensor, Tensor, Tensor | None]]:
        """Keys, values and mask of a text at every text attention, made by the model itself over one video token."""
        inputs = self.family.one_token(self.original, {**self.inputs, **text})
        captures = {layer: Capture() for layer in self.text_sites}
        # Eager: a single token would cost a compiled model a compilation of its own, or turn it dynamic.
        eager = torch.compiler.set_stance("force_eager")
        with self._suspended(), torch.no_grad(), eager, self._context("vidguide_negative"):
            for layer, site in self.text_sites.items():
                site.edit = captures[layer]
            self._original_call(inputs)
        kept = {layer: capture.kept for layer, capture in captures.items() if capture.kept is not None}
        if len(kept) != len(captures):
            missing = sorted(set(captures) - set(kept))
            raise RuntimeError(f"blocks {missing} of {type(self.original).__name__} did not attend to the text")
        return kept

    def weak(self, first: int) -> Tensor:
        """The model's prediction once more, with the edits now set; blocks before `first` are not run again."""
        with self.blocks.skipped_before(first), self._context("vidguide_weak"):
            return self._expect(self._original_call(self.inputs))

    def predict(self, branch: str, text: Inputs) -> Tensor:
        """The model's prediction for another text, on the same video and without our edits."""
        with self._context(branch):
            return self._expect(self._original_call({**self.inputs, **self._batched(text)}))

    def _batched(self, text: Inputs) -> Inputs:
        batch = self.inputs[self.family.text_inputs[0]].shape[0]
        return {name: value.repeat_interleave(batch // value.shape[0], 0) for name, value in text.items()}

    def _original_call(self, inputs: Inputs) -> Any:
        if self._call is None:
            raise RuntimeError("the model can be asked for a prediction only during a guided call")
        return self._call(**inputs)

    @staticmethod
    def _expect(output: Any) -> Tensor:
        prediction = output[0]
        if not isinstance(prediction, Tensor):
            raise TypeError(f"the transformer returned {type(prediction).__name__} where a tensor was expected")
        return prediction

    def _context(self, name: str) -> AbstractContextManager[None]:
        """A cache context of our own around an extra call; the pipeline's is entered again afterwards.

        None where nothing is cached: opening one would leave diffusers' hook registry on a bare transformer.
        """
        cached = self.outer is not None or getattr(self.original, "is_cache_enabled", False)
        return self._nested(self.open_context, name) if cached and self.open_context else nullcontext()

    @contextmanager
    def _nested(self, open_context: Callable[..., Any], name: str) -> Iterator[None]:
        try:
            with open_context(self.original, name):
                yield
        finally:
            if self.outer is not None:  # diffusers leaves no context after a nested one; its own exit clears this
                open_context(self.original, self.outer[0], **self.outer[1]).__enter__()

    @contextmanager
    def pipeline_context(self, name: str, **kwargs: Any) -> Iterator[None]:
        """The pipeline's cache context, which also tells the branch it is about to ask for."""
        self.branch, self.outer = "uncond" if "uncond" in name.split("_") else "cond", (name, kwargs)
        try:
            with nullcontext() if self.open_context is None else self.open_context(self.original, name, **kwargs):
                yield
        finally:
            self.branch, self.outer = "cond", None

    def pipeline_guides(self) -> bool:
        """Whether the pipeline at work applies classifier-free guidance of its own."""
        return bool(getattr(self.pipe, "do_classifier_free_guidance", False))


def _with_prediction(output: Any, prediction: Tensor) -> Any:
    """The transformer's output with another prediction, in the form it came in."""
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    return type(output)(**{**output, "sample": prediction})
