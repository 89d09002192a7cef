"""Adaptive norms in joint attention, whose shifts, scales and gates differ between the prompt and a negative.

A block turns one vector per sample into shifts, scales and gates, one for all tokens (adaLN-Zero: Peebles and Xie 2022,
arXiv 2212.09748). Where that vector depends on the text, by a pooled embedding, the negative's tokens are modulated by
the negative's vector: each norm is called twice, once per vector, and its results are expanded per token.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.class_swap import subclass_of, swapped_classes
from vidguide.transformer.family import Modulation

NORM = "_vidguide_norm"  # attribute of a norm while a second text with another vector is installed
ELEMENTWISE = (torch.tanh,)  # what blocks apply to a gate before they insert the token axis


class ModulatedText(Protocol):
    """A second text as its norms need it."""

    @property
    def negative_length(self) -> int: ...

    def vector_like(self, vector: Tensor) -> Tensor: ...


class PerToken:
    """A shift, scale or gate `(B, L, C)` per token, in place of one `(B, C)` whose token axis a block inserts.

    Not a tensor, so that any operation of a block other than inserting that axis is an error.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def unsqueeze(self, dim: int) -> Tensor:
        """Return the values, which have a token axis."""
        if dim != 1:
            raise TypeError(f"unsqueeze({dim}) of a modulation: only the token axis, 1, can be inserted")
        return self.values

    def __getitem__(self, index: tuple[Any, ...]) -> Tensor:
        """Return the values for `[:, None]`."""
        if index[1] is not None:
            raise TypeError(f"[{index}] of a modulation: only the token axis can be inserted, by [:, None]")
        return self.values

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return cls(function(args[0].values)) if function in ELEMENTWISE else NotImplemented


class NormCall:
    """Calls one norm of a block twice, with the prompt's vector and with the second text's.

    Args:
        norm: the norm. modulation: how the family's blocks modulate text. text: the second text.
    """

    def __init__(self, norm: Any, modulation: Modulation, text: ModulatedText) -> None:
        self.text, self.arguments = text, Arguments(norm)
        positions = self.arguments.positions
        self.tokens = next(iter(positions))
        self.vector = next(name for name in modulation.parameters if name in positions)
        self.leading = modulation.leading if modulation.leading in positions else None

    def __call__(self, norm: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments, length = self.arguments, self.text.negative_length
        tokens, vector = arguments.get(self.tokens, args, kwargs), arguments.get(self.vector, args, kwargs)
        leading = arguments.get(self.leading, args, kwargs) if self.leading else 0
        changes = {self.tokens: tokens[:, :-length]}
        negative_changes = {self.tokens: tokens[:, -length:], self.vector: self.text.vector_like(vector)}
        if self.leading:
            negative_changes[self.leading] = 0
        values, negative_values = (self.call_with(norm, c, args, kwargs) for c in (changes, negative_changes))
        return concatenate(values, negative_values, leading)

    def call_with(
        self, norm: Callable[..., Any], changes: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the norm's result with some arguments replaced."""
        kwargs = {**kwargs}
        for name, value in changes.items():
            args = self.arguments.put(name, value, args, kwargs)
        return norm(*args, **kwargs)


def concatenate(values: Any, negative_values: Any, leading: int) -> Any:
    """Concatenate a norm's results for the other tokens and for the negative's, as if they came from one call.

    Args:
        values, negative_values: normalized tokens `(B, L, C)`, alone or followed by their modulations `(B, C)`.
        leading: number of leading tokens with other modulations, which come last and have no negative tokens.
    """
    if isinstance(values, Tensor):
        return torch.cat([values, negative_values], 1)
    count = (len(values) - 1) // (2 if leading else 1)
    lengths = values[0].shape[1] - leading, negative_values[0].shape[1]
    pairs = zip(values[1 : 1 + count], negative_values[1 : 1 + count], strict=True)
    modulations = [per_token(pair, lengths) for pair in pairs]
    return (torch.cat([values[0], negative_values[0]], 1), *modulations, *values[1 + count :])


def per_token(pair: tuple[Tensor, Tensor], lengths: tuple[int, int]) -> PerToken:
    """Expand two modulations `(B, C)` over `lengths` tokens each, and concatenate them."""
    parts = [values.unsqueeze(1).expand(-1, length, -1) for values, length in zip(pair, lengths, strict=True)]
    return PerToken(torch.cat(parts, 1))


@functools.cache
def modulated_class(original: Any) -> Any:
    """Return a subclass of a norm's class that is called through its `NormCall`. Cached, as compiled graphs are."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, NORM)(super(modulated, self).__call__, args, kwargs)

    modulated = subclass_of(original, __call__=call)
    return modulated


def norm_calls(blocks: list[Any], modulation: Modulation | None, text: ModulatedText) -> list[tuple[Any, NormCall]]:
    """Return the norms that modulate text in some blocks, each with its `NormCall`; none without modulation.

    Raises:
        LookupError: a block has none of the declared norms.
    """
    if modulation is None:
        return []
    calls = []
    for block in blocks:
        norms = [norm for name in modulation.norms if (norm := getattr(block, name, None)) is not None]
        if not norms:
            raise LookupError(f"{type(block).__name__}: none of {', '.join(modulation.norms)}, which modulate its text")
        calls += [(norm, NormCall(norm, modulation, text)) for norm in norms]
    return calls


@contextmanager
def modulated_norms(norms: list[tuple[Any, NormCall]]) -> Iterator[None]:
    """Modulate the second text by its vector within the block; restore the norms' classes afterwards."""
    with swapped_classes(norms, modulated_class, NORM):
        yield
