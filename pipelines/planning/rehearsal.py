"""A call of a pipeline on fake tensors: the pipeline's own code, with components that have no weights."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers import BatchEncoding

from vidguide.edits import nag_combine
from vidguide.guidances.base import Guidance
from vidguide.guiding.guide import guide
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.planning.blueprint import Blueprint, build, components_of, library_class
from vidguide.pipelines.planning.counters import Cost, Counter
from vidguide.pipelines.planning.repeats import Repeats
from vidguide.pipelines.request.call_settings import call_arguments, parameters
from vidguide.transformer.family import family_of

STEPS = 2  # of a rehearsal: the first with what is computed once a run, and one like all others
TEXT_TOKENS = 512  # where a pipeline states no length
CLIP_TOKENS = 77
METHODS = {"decode": "decode", "encode": "first frame"}  # of a VAE, and the phases that they are
PHASES = {"text_encoder": "text", "image_encoder": "image", "transformer": "step"}
Key = tuple[str, str]


@dataclass(frozen=True)
class Size:
    """Size of a call.

    Attributes:
        height, width: pixels. frames: number of frames. steps: denoising steps.
        image: whether the clip starts from an image.
        text: length of the text in tokens; None for the default of the pipeline.
    """

    height: int
    width: int
    frames: int
    steps: int
    image: bool
    text: int | None = None


class EmptyTokenizer:
    """Tokens for any text: as many as the pipeline allows, all zero.

    Args:
        length: number of tokens where the pipeline asks for no other.
    """

    def __init__(self, length: int) -> None:
        self.model_max_length = length

    def __call__(self, text: Any, *args: Any, max_length: int | None = None, **settings: Any) -> BatchEncoding:
        shape = (1 if isinstance(text, str) else len(text), max_length or self.model_max_length)
        ids, mask = torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.long)
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})

    def batch_decode(self, *args: Any, **settings: Any) -> list[str]:
        """Return an empty text."""
        return [""]


def stepping_class(base: Any, on_step: Callable[[], None]) -> Any:
    """Return a subclass of a scheduler class with real timesteps, whose steps add the prediction to the sample."""

    @functools.wraps(base.set_timesteps)
    def set_timesteps(self: Any, num_inference_steps: int | None = None, *args: Any, **settings: Any) -> Any:
        levels = [settings.pop(name, None) for name in ("sigmas", "timesteps")]  # may be fake; their number counts
        steps = num_inference_steps or next(len(each) for each in levels if each is not None)
        with _disable_current_modes():
            return base.set_timesteps(self, steps, *args, **settings)

    def scale_model_input(self: Any, sample: Tensor, *args: Any, **settings: Any) -> Tensor:
        return sample

    @functools.wraps(base.step)
    def step(self: Any, *args: Any, return_dict: bool = True, **settings: Any) -> Any:
        given = [each for each in (*args, *settings.values()) if isinstance(each, Tensor) and each.ndim > 1]
        self._step_index = (getattr(self, "_step_index", None) or 0) + 1
        on_step()
        return given[-1] + given[0].to(given[-1].dtype), given[0]

    values = dict(set_timesteps=set_timesteps, scale_model_input=scale_model_input, step=step)
    return type(base.__name__, (base,), values)


@dataclass
class Meter:
    """Costs of the calls of components, in order.

    A phase lasts from the first call of its component until another one is called; each step is one of its own.

    Attributes:
        counter: of all that runs. phases: key and cost of each.
    """

    counter: Counter
    phases: list[tuple[Key, Cost]] = field(default_factory=list)
    _key: Key | None = None
    _before: tuple[int, int] = (0, 0)

    def begin(self, key: Key) -> None:
        """Begin a phase, unless it is the current one."""
        if key != self._key:
            self.end()
            self._key, self._before = key, (self.counter.flops, self.counter.moved)
            self.counter.peak = self.counter.current

    def end(self) -> None:
        """End the current phase, if there is one."""
        if self._key is not None:
            flops, moved = self.counter.flops - self._before[0], self.counter.moved - self._before[1]
            self.phases.append((self._key, Cost(flops, moved, self.counter.peak)))
        self._key = None

    def costs(self) -> dict[Key, Cost]:
        """Return the cost of each phase: of a step that of the last one, memory of the largest."""
        by_key: dict[Key, Cost] = {}
        for key, cost in self.phases:
            peak = max(cost.peak, by_key[key].peak) if key in by_key else cost.peak
            by_key[key] = Cost(cost.flops, cost.moved, peak)
        return by_key


class Rehearsal:
    """A pipeline whose components are fake. To be used in the context of `counters.fake`.

    Args:
        blueprint: classes and configurations.
        pipeline_class: class of the pipeline.
        model: declaration, for further arguments of the call.
        size: of the call. dtype: of the model.
        columns: as for :class:`Counter`.

    Attributes:
        text, tokens: number of tokens of the text and of the video, after a run.
    """

    def __init__(
        self, blueprint: Blueprint, pipeline_class: Any, model: Model, size: Size, dtype: torch.dtype, columns: bool
    ) -> None:
        self.blueprint, self.model, self.size = blueprint, model, size
        self.columns = columns
        self.text = self.tokens = 0
        names = [name for name in components_of(blueprint.index) if name != "transformer_2"]
        self.modules = {name: build(blueprint, name, dtype) for name in names}
        self.pipe = self._pipeline(pipeline_class)
        self.repeats = Repeats(Counter(columns))
        self.meter = Meter(self.repeats.counter)

    def _pipeline(self, pipeline_class: Any) -> Any:
        known = dict(inspect.signature(pipeline_class.__init__).parameters)
        parts: dict[str, Any] = {}
        for name in list(known)[1:]:
            entry = self.blueprint.index.get(name)
            if name in self.modules:
                parts[name] = self.modules[name]
            elif name.startswith("tokenizer") and entry:
                parts[name] = EmptyTokenizer(CLIP_TOKENS if "CLIP" in entry[1] else TEXT_TOKENS)
            elif name == "scheduler":
                parts[name] = self._scheduler()
            elif isinstance(entry, list | tuple) and entry[0] == "transformers" and name != "transformer_2":
                side = getattr(getattr(self.modules.get("image_encoder"), "config", None), "image_size", None)
                parts[name] = library_class(*entry[:2])(**({} if side is None else dict(size=side, crop_size=side)))
            elif known[name].default is inspect.Parameter.empty:
                parts[name] = None
        if "expand_timesteps" in known:
            parts["expand_timesteps"] = bool(self.blueprint.index.get("expand_timesteps"))
        pipe = pipeline_class(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _scheduler(self) -> Any:
        kind = library_class(*self.blueprint.index["scheduler"][:2])
        with _disable_current_modes():
            return stepping_class(kind, lambda: self.meter.end())()

    def run(self, guidance: Guidance | None = None, output_type: str = "pt") -> list[tuple[Key, Cost]]:
        """Call the pipeline for `STEPS` steps; return its phases in order.

        Args:
            guidance: guidance; None for a call without.
            output_type: "pt" for a clip, "latent" to leave out the decode.
        """
        self.repeats.counter.current = 0
        self.meter = Meter(self.repeats.counter)
        guided = guide(self.pipe, guidance) if guidance is not None else None
        with ExitStack() as stack:
            stack.enter_context(self.repeats.counter)
            for name, module in self.modules.items():
                stack.enter_context(self._metered(name, module, name == "transformer" and guided is not None))
            if guided is not None:
                stack.enter_context(self.repeats.of_function(nag_combine, "nag_in_chunks"))  # hundreds of chunks each
                stack.enter_context(guided)
            self.pipe(**self.arguments(), output_type=output_type)
            self.meter.end()
        return self.meter.phases

    def costs(self) -> dict[Key, Cost]:
        """Return the costs of a call without guidance, by phase and component."""
        self.run()
        return self.meter.costs()

    def steps(self, guidance: Guidance) -> list[Cost]:
        """Return the costs of the steps under a guidance."""
        return [cost for key, cost in self.run(guidance, "latent") if key == ("step", "transformer")]

    def tiled(self) -> Cost | None:
        """Return the cost of a decode in tiles; None if the VAE has none."""
        vae = self.modules.get("vae")
        if not hasattr(vae, "enable_tiling"):
            return None
        vae.enable_tiling()  # type: ignore[union-attr, operator]
        self.run()
        return self.meter.costs().get(("decode", "vae"))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the pipeline's call, without classifier-free guidance."""
        size = self.size
        settings = dict(
            height=size.height, width=size.width, frames=size.frames, steps=STEPS, max_sequence_length=size.text
        )
        declared = Model(source="", call=self.model.call)
        arguments = call_arguments(self.pipe, declared, {**settings, "guidance_scale": 1.0})
        if size.image:
            arguments["image"] = Image.new("RGB", (size.width, size.height))
        return {**arguments, "prompt": "text"} if "prompt" in parameters(self.pipe) else arguments

    @contextmanager
    def _metered(self, name: str, module: nn.Module, guided: bool) -> Iterator[None]:
        """Let the calls of a component begin phases; equal calls within it are counted once, unless it is guided."""
        phase = PHASES.get(name.removesuffix("_2"), name)
        with ExitStack() as stack:
            if not guided:
                stack.enter_context(self.repeats.within(module))
            if hasattr(module, "decode"):
                for method, what in METHODS.items():
                    stack.enter_context(self._wrapped(module, method, (what, name)))
            else:
                stack.enter_context(self._observed(module, (phase, name)))
            yield

    @contextmanager
    def _wrapped(self, module: nn.Module, method: str, key: Key) -> Iterator[None]:
        original = getattr(module, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.meter.begin(key)
            return original(*args, **kwargs)

        setattr(module, method, call)
        try:
            yield
        finally:
            delattr(module, method)

    @contextmanager
    def _observed(self, module: nn.Module, key: Key) -> Iterator[None]:
        def begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self.meter.begin(key)
            if key[1] == "transformer" and not self.tokens:
                self._measure_tokens(kwargs)

        handle = module.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _measure_tokens(self, inputs: dict[str, Any]) -> None:
        video, text = inputs["hidden_states"], inputs.get("encoder_hidden_states")
        self.text = 0 if text is None else text.shape[-2]
        if video.ndim == 3:
            self.tokens = video.shape[1]
            return
        config = self.pipe.transformer.config
        patch = getattr(config, "patch_size", 1)
        frames = getattr(config, "patch_size_t", None) or 1
        patches = tuple(patch) if isinstance(patch, list | tuple) else (frames, patch, patch)
        layout = family_of(self.pipe.transformer).layout or "BCFHW"
        sizes = [video.shape[layout.index(axis)] for axis in "FHW"]
        self.tokens = math.prod(size // step for size, step in zip(sizes, patches, strict=True))
