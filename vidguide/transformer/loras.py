"""LoRAs and other adapters of peft in a transformer: which are active, and at which strength."""

from typing import Any

from torch import nn


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
