"""Calls of a guided pipeline: the negative prompt that a call gives, and the objects that it uses."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vidguide.calls.encoded_prompts import cached_encode_prompt
from vidguide.guidances.base import Guidance
from vidguide.guiding.ownership import Ownership
from vidguide.guiding.step_counter import StepCounter
from vidguide.restoration import restoring
from vidguide.transformer.class_swap import subclass_of
from vidguide.transformer.family import Family, Prompt, family_of
from vidguide.transformer.modular_blocks import input_names, is_modular, picture_inputs, text_encoder_of
from vidguide.transformer.negative_text import check_text_encoder

PIPELINE = "_vidguide_pipeline"
NEGATIVE = re.compile(r"negative_(?=(pooled_|connector_(audio_)?)?prompt|connector_)")  # not negative_index_latents
CFG_SCALE = re.compile(r"guidance_scale|cfg_scale")


class PipelineCalls:
    """The calls of a guided pipeline.

    Args:
        ownership: makes each of them an owner's.
        scheduler: counts the steps instead of the pipeline's own.

    Attributes:
        negative: the running call's negative prompt, as arguments of `encode_prompt`; empty if it gives none, None
            while no call runs.
    """

    def __init__(
        self,
        pipe: Any,
        guidances: Sequence[Guidance],
        steps: StepCounter,
        ownership: Ownership,
        scheduler: Any = None,
    ) -> None:
        self.ownership = ownership
        self.pipe, self.guidances, self.steps, self.scheduler = pipe, guidances, steps, scheduler
        self.transformers = transformers_of(pipe)
        self.negative: Prompt | None = None
        self._pictures: dict[str, Any] = {}  # of the running call, which its text encoder reads
        self._prompts: dict[Any, Prompt] = {}
        steps.check = self._check_transformers  # also between two calls, as another transformer's are not guided

    def prompt_of(self, text: str | list[str]) -> Prompt:
        """Return a text as a negative prompt of the running call: with the pictures that go with its prompt."""
        key = text if isinstance(text, str) else tuple(text)
        return self._prompts.setdefault(key, {"prompt": text, **self._pictures})

    def __call__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call of the pipeline; `call` is its original.

        Raises:
            RuntimeError: another call runs in another thread.
        """
        with self.ownership.sampling(type(self.pipe).__name__):
            return self._sample(call, args, kwargs)

    def _sample(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.negative is not None:
            return call(*args, **kwargs)  # a pipeline that calls itself
        self._check_transformers()
        self.steps.observe(self.current_scheduler, self.pipe)
        readers = [guidance for guidance in self.guidances if guidance.reads_negative and not guidance.neutral]
        with restoring(self._end_call):
            self.negative = {}
            arguments = CallArguments.of(call, args, kwargs, input_names(self.pipe))
            self._pictures, self._prompts = arguments.values_of(picture_inputs(self.pipe, self.family.text_blocks)), {}
            if readers:
                self.negative = arguments.negative() or self._negative_of_state(arguments)
                if "prompt" in self.negative:
                    self.negative = {**self.negative, **self._pictures}
                self._check_negative(readers, self.negative)
            check_counts(self.guidances, self.negative, arguments.given)
            if readers:
                args, kwargs = (), self._passed(arguments)
            return call(*args, **kwargs)

    def _end_call(self) -> None:
        self.negative, self._pictures, self._prompts = None, {}, {}

    @property
    def current_scheduler(self) -> Any:
        """The scheduler that counts the steps now, which may have been replaced within the block; None without one."""
        return self.scheduler or getattr(self.pipe, "scheduler", None)

    @property
    def family(self) -> Family:
        """The family of its transformers."""
        return family_of(getattr(self.transformers[0], "_orig_mod", self.transformers[0]))

    def _negative_of_state(self, arguments: "CallArguments") -> Prompt:
        """Return the negative in a modular pipeline's state: a text, or embeddings if the pipeline encodes no texts."""
        has_encoder = is_modular(self.pipe) and text_encoder_of(self.pipe) is not None
        negative = arguments.negative_of_state().items()
        return {name: value for name, value in negative if (name == "prompt") == has_encoder}

    def _passed(self, arguments: "CallArguments") -> dict[str, Any]:
        """Return the arguments to call the pipeline with: without a negative that it lacks or would misuse."""
        appends = self.family.appends_negative and not arguments.reads_negative()
        return arguments.without_negative() if appends else arguments.known()

    def _check_negative(self, readers: Sequence[Guidance], negative: Prompt) -> None:
        """Refuse, before the call does anything, a text that cannot be encoded, or that some of the prompts lack."""
        for guidance in readers:
            if guidance.acts_on(negative) and ("prompt" in negative or not negative):
                text = negative.get("prompt", "")
                who = f"{type(guidance).__name__}, negative_prompt={text!r}"
                check_text_encoder(who, self.pipe)
                if not guidance.acts_on({}) and not isinstance(text, str) and any(map(is_blank, text)):
                    raise ValueError(f"{who}: blank for some of the prompts; give one for each, or separate the calls")

    def _check_transformers(self) -> None:
        if list(map(id, self.transformers)) != list(map(id, transformers_of(self.pipe))):
            what = f"a transformer of this {type(self.pipe).__name__} was replaced within guide(...)"
            raise ValueError(f"{what}: replace, or compile, it before guide(...)")


@dataclass(frozen=True)
class CallArguments:
    """Arguments of a pipeline's call.

    Attributes:
        given: those that the user passed, by name; defaults do not count. signature: of the call.
        inputs: names of the inputs of a modular pipeline, which its signature does not have.
    """

    given: Mapping[str, Any]
    signature: inspect.Signature
    inputs: Set[str] = frozenset()

    @classmethod
    def of(
        cls, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: Set[str] = frozenset()
    ) -> "CallArguments":
        """Bind the arguments of a call, and keep those that the pipeline lacks too.

        Raises:
            TypeError: too many positional arguments.
        """
        signature = inspect.signature(call)
        return cls({**signature.bind_partial(*args).arguments, **kwargs}, signature, inputs)

    def negative(self) -> Prompt:
        """Return the negative prompt as the arguments of `encode_prompt` for a prompt; empty if there is none.

        A blank text is none: web servers send it for a field that was left empty.

        Raises:
            ValueError: both a text and embeddings of it.
        """
        given = {name: value for name, value in self.given.items() if NEGATIVE.match(name) and not is_blank(value)}
        if "negative_prompt" in given and "negative_prompt_embeds" in given:
            raise ValueError("negative_prompt and negative_prompt_embeds are both given: keep one of them")
        return {NEGATIVE.sub("", name): value for name, value in given.items()}

    def negative_of_state(self) -> Prompt:
        """Return the negative prompt in the `PipelineState` that the call is given, which other arguments replace."""
        values: Mapping[str, Any] = getattr(self.given.get("state"), "values", {})
        negative = {name: value for name, value in values.items() if NEGATIVE.match(name) and name not in self.given}
        return {NEGATIVE.sub("", name): value for name, value in negative.items() if not is_blank(value)}

    def values_of(self, names: Set[str]) -> dict[str, Any]:
        """Return the arguments of these names, also those in the `PipelineState` that the call is given."""
        state: Mapping[str, Any] = getattr(self.given.get("state"), "values", {})
        return {name: value for name, value in {**state, **self.given}.items() if name in names and value is not None}

    def known(self) -> dict[str, Any]:
        """Return the arguments by name, without a negative that the pipeline has no parameters for."""
        names = self.inputs | set(self.signature.parameters)
        return {name: value for name, value in self.given.items() if name in names or not NEGATIVE.match(name)}

    def without_negative(self) -> dict[str, Any]:
        """Return the arguments by name, without a negative."""
        return {name: value for name, value in self.given.items() if not NEGATIVE.match(name)}

    def reads_negative(self) -> bool:
        """Return whether a scale of classifier-free guidance of this call is above 1, or not known."""
        parameters = self.signature.parameters
        scales = [self.given.get(name, parameters[name].default) for name in parameters if CFG_SCALE.search(name)]
        return not scales or any(_is_above_1(scale) for scale in scales)


def check_counts(guidances: Sequence[Guidance], negative: Prompt, given: Mapping[str, Any]) -> None:
    """Refuse several negative prompts for another number of prompts: which negative is whose would be a guess.

    Args:
        guidances: of the call.
        negative: of the call, for guidances without their own.
        given: arguments of the call.

    Raises:
        ValueError: naming the guidance and both numbers.
    """
    prompts = count_of(given.get("prompt"), given.get("prompt_embeds"))
    clips = (prompts or 0) * (given.get("num_videos_per_prompt") or 1)
    for guidance in guidances:
        if guidance.neutral or not hasattr(guidance, "negative_prompt") or prompts is None:
            continue
        embeds = getattr(guidance, "negative_prompt_embeds", None)
        of_call = negative.get("prompt"), negative.get("prompt_embeds")
        count = count_of(*(of_call if guidance.reads_negative else (guidance.negative_prompt, embeds)))
        if count not in (None, 1, prompts, clips if isinstance(embeds, Tensor) else prompts):
            who = f"{type(guidance).__name__}: {count} negative prompts for {prompts} prompts"
            raise ValueError(f"{who}; give one for all, or one for each")


def count_of(text: Any, embeds: Any) -> int | None:
    """Return the number of texts, or of rows of embeddings; None where neither says."""
    if isinstance(text, list | tuple):
        return len(text)
    if isinstance(text, str):
        return 1
    return len(embeds) if isinstance(embeds, Tensor) else None


def _is_above_1(scale: Any) -> bool:
    if isinstance(scale, list | tuple):
        return any(_is_above_1(item) for item in scale)
    return scale is not None and not (isinstance(scale, int | float) and scale <= 1)


def is_blank(value: Any) -> bool:
    """Return whether a negative prompt says nothing: None, blank text, or a list of these."""
    if isinstance(value, list | tuple):
        return all(is_blank(item) for item in value)
    return value is None or (isinstance(value, str) and not value.strip())


def transformers_of(pipe: Any) -> list[nn.Module]:
    """Return the denoising transformers of a pipeline: one, or two in a mixture of experts over timesteps.

    Raises:
        TypeError: the object has none.
    """
    candidates = [getattr(pipe, name, None) for name in ("transformer", "transformer_2", "transformer_ref")]
    transformers = [module for module in candidates if isinstance(module, nn.Module)]
    if not transformers:
        raise TypeError(f"model={type(pipe).__name__}: give a diffusers pipeline with a transformer, or a transformer")
    return transformers


@functools.cache
def guided_pipeline_class(original: Any) -> Any:
    """Return a subclass of a pipeline's class whose calls go through its `PipelineCalls`. Cached."""

    @functools.wraps(original.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls: PipelineCalls | None = vars(self).get(PIPELINE)
        original_call = functools.partial(original.__call__, self)
        if calls is None:  # the block ended in another thread
            return original_call(*args, **kwargs)
        return calls(original_call, args, kwargs)

    return subclass_of(original, __call__=call, **cached_encode_prompt(original))
