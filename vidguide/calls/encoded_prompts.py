"""Results of a pipeline's `encode_prompt`, cached for as long as the pipeline lives."""

import functools
import inspect
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vidguide.transformer.lists import has_graph, tensors_in
from vidguide.transformer.model_state import Identity, module_state, state_of

CAPACITY = 16  # calls of `encode_prompt`; a large text encoder returns a few MiB
PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device)


class EncodedPrompts:
    """Cache of the latest results of one pipeline's `encode_prompt`.

    A result is valid for the same arguments, encoders, weights and LoRAs, tokenizers, settings of the pipeline, device,
    autocast and mode of autograd, while nobody has changed its tensors in place. Calls are not cached where an
    argument is not a plain value (pictures, embeddings), where a result has a graph, while an encoder is in training
    mode, or while weights are offloaded without storage.

    Attributes:
        reused: texts whose results were returned again since the last call of :meth:`notes`.
    """

    def __init__(self) -> None:
        self._results: OrderedDict[Any, tuple[Any, Any]] = OrderedDict()  # by key: the result and its tensors' state
        self.reused: list[str] = []

    def __call__(self, pipe: Any, encode: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what `encode(*args, **kwargs)` returns, of the pipeline's class."""
        key = key_of(pipe, encode, args, kwargs)
        if key is None:
            return encode(*args, **kwargs)
        result, state = self._results.get(key, (None, None))
        if state is None or state != state_of(tensors_in(result)):
            result = encode(*args, **kwargs)
            self._store(key, result)
        else:
            self._results.move_to_end(key)
            self.reused.append(str(args[0] if args else kwargs.get("prompt")))
        return result

    def _store(self, key: Any, result: Any) -> None:
        self._results.pop(key, None)
        if not is_plain_result(result) or has_graph(result):
            return
        self._results[key] = result, state_of(tensors_in(result))
        while len(self._results) > CAPACITY:
            self._results.popitem(last=False)

    def notes(self) -> list[str]:
        """Return notes for the trace on what was reused since the last call."""
        number, self.reused = len(self.reused), []
        return [f"texts: {number} not encoded again"] if number else []


_CACHES: "weakref.WeakKeyDictionary[Any, EncodedPrompts]" = weakref.WeakKeyDictionary()


def encoded_prompts_of(pipe: Any) -> EncodedPrompts:
    """Return the cache of a pipeline, which ends with the pipeline; of a class without weak references, a new one."""
    try:
        return _CACHES.setdefault(pipe, EncodedPrompts())
    except TypeError:
        return EncodedPrompts()


def cached_encode_prompt(original: Any) -> dict[str, Any]:
    """Return, for a subclass of a pipeline's class, an `encode_prompt` that caches; empty where the class has none."""
    if not hasattr(original, "encode_prompt"):
        return {}

    @functools.wraps(original.encode_prompt)
    def encode_prompt(self: Any, *args: Any, **kwargs: Any) -> Any:
        return encoded_prompts_of(self)(self, functools.partial(original.encode_prompt, self), args, kwargs)

    return {"encode_prompt": encode_prompt}


def key_of(pipe: Any, encode: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return all that the result of a call depends on; None where that is not known, or changes with each call."""
    arguments = plain_value(inspect.signature(encode).bind(*args, **kwargs).arguments)
    encoders = encoders_of(pipe)
    if arguments is None or any(module.training or is_offloaded(module) for module in encoders.values()):
        return None
    place = str(getattr(pipe, "_execution_device", None)), getattr(getattr(pipe, "transformer", None), "dtype", None)
    autograd = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    weights = tuple((name, module_state(module)) for name, module in encoders.items())
    return arguments, weights, settings_of(pipe), place, autograd, tuple(autocast)


def plain_value(value: Any) -> Any:
    """Return a hashable copy of a value with its type, which 1, 1.0 and True share; None if it has other values."""
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, dict):
        value = [item for pair in value.items() for item in pair]
    if not isinstance(value, list | tuple):
        return None
    items = tuple(map(plain_value, value))
    return None if None in items else items


def encoders_of(pipe: Any) -> dict[str, nn.Module]:
    """Return the modules of a pipeline that may encode texts: all but transformers and VAEs."""
    components = {name: value for name, value in vars(pipe).items() if isinstance(value, nn.Module)}
    return {name: value for name, value in components.items() if not name.startswith(("transformer", "vae"))}


def is_offloaded(module: nn.Module) -> bool:
    """Return whether weights of a module have no storage, as between calls in sequential offload."""
    return any(parameter.is_meta for parameter in module.parameters())


def settings_of(pipe: Any) -> tuple[Any, ...]:
    """Return a pipeline's plain public attributes (lengths, templates), and its tokenizers and processors."""
    plain, others = [], []
    for name, value in vars(pipe).items():
        if isinstance(value, nn.Module) or name.startswith("_"):
            continue
        if (one := plain_value(value)) is not None:
            plain.append((name, one))
        elif "tokenizer" in name or "processor" in name:
            others.append((name, Identity(value), _length(value)))
    return tuple(plain), tuple(others)


def _length(value: Any) -> int | None:
    """Return the number of tokens of a tokenizer, which added tokens increase."""
    return len(value) if hasattr(type(value), "__len__") else None


def is_plain_result(result: Any) -> bool:
    """Return whether what `encode_prompt` returned is a tensor, or a tuple of tensors and None."""
    values = result if isinstance(result, tuple) else (result,)
    return all(value is None or isinstance(value, Tensor) for value in values)
