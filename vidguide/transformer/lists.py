"""Arguments that are lists of one tensor per sample, as batches; and all tensors in nested values."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidguide.transformer.family import Family, Inputs


def as_batches(family: Family, inputs: Inputs) -> Inputs:
    """Return the same call with the family's lists as batches, over whose samples the forward loops as well."""
    lists = {name: inputs[name] for name in family.lists if isinstance(inputs.get(name), list | tuple)}
    return {**inputs, **{name: _batch(name, samples, name in family.text_inputs) for name, samples in lists.items()}}


def _batch(name: str, samples: list[Tensor], text: bool) -> Tensor:
    """Return samples as one batch; texts `(L, C)` padded with zeros to the longest, as the forward pads them.

    Raises:
        ValueError: their sizes differ.
    """
    sizes = {tuple(sample.shape[1:] if text else sample.shape) for sample in samples}
    if len(sizes) != 1:
        raise ValueError(f"{name}: samples of the sizes {sorted(sizes)}; must be of one size, to be guided together")
    return pad_sequence(samples, batch_first=True)


def has_graph(value: Any) -> bool:
    """Return whether a tensor in a value requires gradients, also in nested lists, tuples and mappings."""
    return any(tensor.requires_grad for tensor in tensors_in(value))


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a value, also in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors_in(item)]
