"""Results of a pipeline's `encode_prompt`, cached for as long as the pipeline lives."""

import functools
import inspect
import random
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vidguide.transformer.lists import has_graph, tensors_in
from vidguide.transformer.model_state import Identity, module_state

CAPACITY = 16  # calls of `encode_prompt`
MAX_BYTES = 256 << 20  # of all results of a pipeline; those of Gemma's 49 layers (LTX-2) have 400 MB for one text
MAX_LENGTH = 100  # of lists and mappings in settings; vocabularies are longer
PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device)


class EncodedPrompts:
    """Cache of the latest results of one pipeline's `encode_prompt`, of at most `MAX_BYTES`. Returns copies of them.

    A result is valid for the same arguments, encoders, weights, LoRAs, hooks, tokenizers, settings of the pipeline,
    device, autocast and mode of autograd. Calls are not cached where an argument is not a plain value (pictures,
    embeddings), where a result has a graph, while an encoder is in training mode, while weights are
    offloaded without storage, or where random numbers were drawn. Writes by `tensor.data` to single elements of a
    weight go unnoticed, see :func:`vidguide.transformer.model_state.state_of`.

    Attributes:
        reused: number of results that were returned again since the last call of :meth:`notes`.
    """

    def __init__(self) -> None:
        self._results: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()  # of `_results`: servers encode in one thread, and sample in another
        self.reused = 0

    def __call__(self, pipe: Any, encode: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what `encode(*args, **kwargs)` returns, of the pipeline's class."""
        key = key_of(pipe, encode, args, kwargs)
        if key is None:
            return encode(*args, **kwargs)
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                self.reused += 1
                return copy_of(self._results[key])
        before = random_states()
        result = encode(*args, **kwargs)
        if is_plain_result(result) and not has_graph(result) and random_states() == before:
            self._store(key, result)
        return result

    def _store(self, key: Any, result: Any) -> None:
        if bytes_of(result) > MAX_BYTES:
            return
        with self._lock:
            self._results[key] = copy_of(result)
            while len(self._results) > CAPACITY or sum(map(bytes_of, self._results.values())) > MAX_BYTES:
                self._results.popitem(last=False)

    def notes(self) -> list[str]:
        """Return notes for the trace on what was reused since the last call."""
        number, self.reused = self.reused, 0
        return [f"texts: {number} not encoded again"] if number else []


_CACHES: "weakref.WeakKeyDictionary[Any, EncodedPrompts]" = weakref.WeakKeyDictionary()


def encoded_prompts_of(pipe: Any) -> EncodedPrompts:
    """Return the cache of a pipeline, which ends with the pipeline; of a class without weak references, a new one."""
    try:
        return _CACHES.setdefault(pipe, EncodedPrompts())
    except TypeError:
        return EncodedPrompts()


def cached_encode_prompt(original: Any) -> dict[str, Any]:
    """Return, for a subclass of a pipeline's class, an `encode_prompt` that caches; empty where the class has none, or
    one that is not of diffusers: it may count its calls, or return another text each time."""
    method = getattr(original, "encode_prompt", None)
    if not getattr(method, "__module__", "").startswith("diffusers."):
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
    return arguments, encoding_state(pipe, encoders), place, autograd


def encoding_state(pipe: Any, encoders: dict[str, nn.Module]) -> tuple[Any, ...]:
    """Return the state of all that encodes the texts of a pipeline: modules, tokenizers, settings and autocast."""
    autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    modules = tuple((name, module_state(module), program_of(module)) for name, module in encoders.items())
    return modules, settings_of(pipe), tuple(autocast)


def program_of(module: nn.Module) -> tuple[Any, ...]:
    """Return what a forward depends on beside class and weights: modes, hooks, replaced forwards, configurations."""
    hooks, configs = [], {}
    for name, one in module.named_modules():
        replaced = [vars(one)["forward"]] if "forward" in vars(one) else []
        changed = *one._forward_pre_hooks.values(), *one._forward_hooks.values(), *replaced
        hooks += [(name, Identity(hook)) for hook in changed]
        config = getattr(one, "config", None)
        configs[id(config)] = config
    modes = tuple(one.training for one in module.modules())
    return modes, tuple(hooks), tuple(plain_items(getattr(config, "__dict__", {})) for config in configs.values())


def plain_value(value: Any) -> Any:
    """Return a hashable copy of a value with its type, which 1, 1.0 and True share; None if it has other values."""
    if isinstance(value, PLAIN):
        return type(value), value
    if not isinstance(value, dict | list | tuple):
        return None
    values = [item for pair in value.items() for item in pair] if isinstance(value, dict) else value
    items = tuple(map(plain_value, values))
    return None if None in items else (type(value), items)


def plain_items(values: Any) -> tuple[Any, ...]:
    """Return the names and copies of the plain values of a mapping; others are left out, as are large ones."""
    small = {name: value for name, value in values.items() if not isinstance(value, list | tuple | dict)}
    small |= {name: value for name, value in values.items() if name not in small and len(value) <= MAX_LENGTH}
    copies = ((name, plain_value(value)) for name, value in small.items())
    return tuple((name, one) for name, one in copies if one is not None)


def encoders_of(pipe: Any) -> dict[str, nn.Module]:
    """Return the modules of a pipeline that may encode texts: all but transformers and VAEs."""
    components = {name: value for name, value in vars(pipe).items() if isinstance(value, nn.Module)}
    return {name: value for name, value in components.items() if not name.startswith(("transformer", "vae"))}


def is_offloaded(module: nn.Module) -> bool:
    """Return whether weights of a module have no storage, as between calls in sequential offload."""
    return any(parameter.is_meta for parameter in module.parameters())


def settings_of(pipe: Any) -> tuple[Any, ...]:
    """Return a pipeline's plain public attributes (lengths, templates) and configuration, and its tokenizers and
    processors with theirs."""
    public = {name: value for name, value in vars(pipe).items() if not name.startswith("_")}
    others = [
        (name, Identity(value), _length(value), plain_items(getattr(value, "__dict__", {})))
        for name, value in public.items()
        if "tokenizer" in name or "processor" in name
    ]
    return plain_items(public), plain_items(getattr(pipe, "config", {})), tuple(others)


def _length(value: Any) -> int | None:
    """Return the number of tokens of a tokenizer, which added tokens increase."""
    return len(value) if hasattr(type(value), "__len__") else None


def random_states() -> tuple[Any, ...]:
    """Return the states of the random generators of Python and torch."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    return random.getstate(), *(bytes(generator.get_state().numpy()) for generator in generators)


def copy_of(result: Any) -> Any:
    """Return a plain result with copies of its tensors."""
    if isinstance(result, tuple):
        return tuple(map(copy_of, result))
    return None if result is None else result.clone()


def bytes_of(result: Any) -> int:
    """Return the memory of the tensors in a result, in bytes."""
    return sum(tensor.nbytes for tensor in tensors_in(result))


def is_plain_result(result: Any) -> bool:
    """Return whether what `encode_prompt` returned is a tensor, or a tuple of tensors and None."""
    values = result if isinstance(result, tuple) else (result,)
    return all(value is None or isinstance(value, Tensor) for value in values)
