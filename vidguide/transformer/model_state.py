"""State of tensors, modules and LoRAs, to compare with an earlier one: whether what was computed from them holds."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 4  # elements of each tensor that are compared
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}  # by bytes per element


class Identity:
    """Reference to an object, equal to those of the same object while that lives.

    It does not prolong the object's life, but for a class that has no weak references.
    """

    def __init__(self, value: Any) -> None:
        try:
            self._reference: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self._reference = lambda: value
        self._hash = id(value)

    def __eq__(self, other: object) -> bool:
        value = self._reference()
        return value is not None and isinstance(other, Identity) and other._reference() is value

    def __hash__(self) -> int:
        return self._hash


def state_of(tensors: Iterable[Tensor]) -> tuple[Any, ...]:
    """Return the state of tensors: which they are, how often torch changed them in place, and some of their values.

    The values are compared because writes by `tensor.data`, as averages of weights do, are not counted by torch.
    """
    tensors = list(tensors)
    return tuple((Identity(tensor), version(tensor), tensor.dtype) for tensor in tensors), sampled_bits(tensors)


def version(tensor: Tensor) -> int:
    """Return how often torch changed a tensor in place; -1 for one of inference mode, which torch does not count."""
    return -1 if tensor.is_inference() else tensor._version


def sampled_bits(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Return the bits of a few evenly spaced elements of each tensor: views, and one copy per dtype and device.

    None of tensors of other classes (quantized ones), without storage (offloaded ones), or that are not contiguous.
    """
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        plain = type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and tensor.layout == torch.strided
        if plain and not tensor.is_meta and tensor.numel() and tensor.is_contiguous():
            values = tensor.detach().view(-1)[:: -(-tensor.numel() // SAMPLES)]
            by_kind.setdefault((tensor.dtype, tensor.device), []).append(values)
    groups = [torch.cat(values).view(INTEGERS[values[0].element_size()]) for values in by_kind.values()]
    return tuple(bits for group in groups for bits in group.tolist())


def module_state(module: nn.Module) -> tuple[Any, ...]:
    """Return the state of a module's weights, buffers and LoRAs."""
    tensors = (*module.parameters(), *module.buffers())
    return Identity(module), module.training, state_of(tensors), loras_of(module)


def loras_of(model: Any) -> tuple[Any, ...]:
    """Return the state of every layer with adapters, to compare with an earlier one; empty without adapters.

    Values that were computed by the model are stale once it has changed: by `set_adapters`, `disable_lora`,
    `fuse_lora`, or by another adapter.
    """
    if not getattr(model, "peft_config", None):  # diffusers sets it when an adapter is loaded
        return ()
    return tuple(state for layer in model.modules() if (state := lora_state(layer)))


def lora_state(layer: nn.Module) -> tuple[Any, ...]:
    """Return active adapters, strengths, merged adapters and whether all are disabled; empty for other layers."""
    scaling = getattr(layer, "scaling", None)
    if not isinstance(scaling, dict) or not hasattr(layer, "active_adapters"):
        return ()
    values: Any = layer
    merged = tuple(values.merged_adapters)
    return tuple(values.active_adapters), tuple(sorted(scaling.items())), merged, bool(values.disable_adapters)


def computation_state(module: nn.Module, inputs: Any) -> tuple[Any, ...]:
    """Return the state of all that a module's output is computed from: its own, and that of its inputs."""
    return module_state(module), input_state(inputs)


def input_state(value: Any) -> Any:
    """Return the state of an argument of a transformer: of its tensors, and other values as they are."""
    if isinstance(value, Tensor):
        return state_of([value]), tuple(value.shape)
    if isinstance(value, Mapping):
        return tuple((name, input_state(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(input_state, value))
    if value is None or isinstance(value, str | int | float | bytes | torch.dtype | torch.device):
        return type(value), value
    return Identity(value)
