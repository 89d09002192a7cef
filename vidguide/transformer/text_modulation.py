"""Adaptive norms in joint attention, whose shifts, scales and gates differ between the prompt and a negative.

A block turns one vector per sample into shifts, scales and gates, one for all tokens (adaLN-Zero: Peebles and Xie 2022,
arXiv 2212.09748). Where that vector depends on the text, by a pooled embedding, the negative's tokens get those of the
negative's own vector: its norms are called twice, and what they return broadcasts per token.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.class_swap import subclass_of, swapped_class

if TYPE_CHECKING:
    from vidguide.transformer.text_stream import Stream

NORM = "_vidguide_norm"  # attribute of a norm while a negative with a vector of its own is carried
ELEMENTWISE = (torch.tanh,)  # what blocks apply to a gate before they insert the token axis


class PerToken:
    """A shift, scale or gate `(B, L, C)`, in place of one for all tokens, `(B, C)`, whose token axis a block inserts.

    Not a tensor, so that whatever else a block may do with it is an error.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def unsqueeze(self, dim: int) -> Tensor:
        """The values, whose token axis is there already."""
        if dim != 1:
            raise TypeError(f"unsqueeze({dim}) of a modulation: only the token axis, 1, can be inserted")
        return self.values

    def __getitem__(self, index: tuple[Any, ...]) -> Tensor:
        """The values, for `[:, None]`."""
        if index[1] is not None:
            raise TypeError(f"[{index}] of a modulation: only the token axis can be inserted, by [:, None]")
        return self.values

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return cls(function(args[0].values)) if function in ELEMENTWISE else NotImplemented


class NormCall:
    """How one norm of a block is called while a negative is carried: twice, with a vector for each text."""

    def __init__(self, norm: Any, stream: "Stream") -> None:
        modulation = stream.joint.modulation
        assert modulation is not None
        self.stream, self.arguments = stream, Arguments(norm)
        positions = self.arguments.positions
        self.tokens = next(iter(positions))
        self.vector = next(name for name in modulation.parameters if name in positions)
        self.leading = modulation.leading if modulation.leading in positions else None

    def __call__(self, norm: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments, negative = self.arguments, self.stream.negative
        tokens, vector = arguments.get(self.tokens, args, kwargs), arguments.get(self.vector, args, kwargs)
        leading = arguments.get(self.leading, args, kwargs) if self.leading else 0
        others = {self.tokens: tokens[:, :-negative]}
        own = {self.tokens: tokens[:, -negative:], self.vector: self.stream.vector_like(vector)}
        if self.leading:
            own[self.leading] = 0
        values, own_values = (self.called(norm, changes, args, kwargs) for changes in (others, own))
        return joined(values, own_values, leading)

    def called(
        self, norm: Callable[..., Any], changes: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What the norm returns with some arguments replaced."""
        kwargs = {**kwargs}
        for name, value in changes.items():
            args = self.arguments.put(name, value, args, kwargs)
        return norm(*args, **kwargs)


def joined(values: Any, own: Any, leading: int) -> Any:
    """What a norm returned for the other tokens and for the negative's, as if in one call: the tokens `(B, L, C)`,
    alone or followed by their modulations; those of leading tokens come last, one for each, and hold no negative."""
    if isinstance(values, Tensor):
        return torch.cat([values, own], 1)
    count = (len(values) - 1) // (2 if leading else 1)
    lengths = values[0].shape[1] - leading, own[0].shape[1]
    pairs = zip(values[1 : 1 + count], own[1 : 1 + count], strict=True)
    modulations = [per_token(pair, lengths) for pair in pairs]
    return (torch.cat([values[0], own[0]], 1), *modulations, *values[1 + count :])


def per_token(pair: tuple[Tensor, Tensor], lengths: tuple[int, int]) -> PerToken:
    """Two modulations `(B, C)`, each for so many tokens."""
    parts = [one.unsqueeze(1).expand(-1, length, -1) for one, length in zip(pair, lengths, strict=True)]
    return PerToken(torch.cat(parts, 1))


@functools.cache
def modulated_class(own: Any) -> Any:
    """A norm's class that modulates a carried negative by its own vector; made once, as compiled graphs are."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, NORM)(super(modulated, self).__call__, args, kwargs)

    modulated = subclass_of(own, __call__=call)
    return modulated


def norms_of(blocks: list[Any], stream: "Stream") -> list[tuple[Any, NormCall]]:
    """The norms that modulate text in some blocks, and how to call each.

    Raises:
        LookupError: a block has none of those declared.
    """
    modulation = stream.joint.modulation
    if modulation is None:
        return []
    found = []
    for block in blocks:
        norms = [norm for name in modulation.norms if (norm := getattr(block, name, None)) is not None]
        if not norms:
            raise LookupError(f"{type(block).__name__}: none of {', '.join(modulation.norms)}, which modulate its text")
        found += [(norm, NormCall(norm, stream)) for norm in norms]
    return found


@contextmanager
def modulating(norms: list[tuple[Any, NormCall]]) -> Iterator[None]:
    """Within, norms modulate the carried negative by its own vector; afterwards they are of their own classes again."""
    with ExitStack() as stack:
        for norm, called in norms:
            stack.enter_context(swapped_class(norm, modulated_class, NORM, called))
        yield
