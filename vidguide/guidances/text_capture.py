"""What a transformer makes of a negative's text: keys and values by cross-attention, a stream in joint attention."""

from typing import TYPE_CHECKING

from torch import Tensor

from vidguide.attention.interception import Kernel
from vidguide.transformer.family import Inputs
from vidguide.transformer.text_stream import Stream, capture_stream
from vidguide.transformer.token_grid import one_token

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser


class Capture:
    """An edit that changes nothing and keeps the keys, values and mask that the kernel was called with."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor, Tensor | None] | None = None

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.kept = (key, value, kernel.mask)
        return kernel(query, key, value, kernel.mask)


def text_keys_values(denoiser: "Denoiser", text: Inputs) -> dict[int, tuple[Tensor, Tensor, Tensor | None]]:
    """Keys, values and mask of a text at the text attentions, made by the model itself over one video token."""
    inputs = one_token(denoiser.family, denoiser.original, denoiser.inputs, text)
    captures = {number: Capture() for number in denoiser.text_sites}
    with denoiser.suspended():
        for number, site in denoiser.text_sites.items():
            site.edit = captures[number]
        denoiser.aside(inputs)
    # An attention that is not asked here (audio's, when there is no audio) is not asked in the guided call either.
    kept = {number: capture.kept for number, capture in captures.items() if capture.kept is not None}
    if not kept:
        raise RuntimeError(f"no block of {type(denoiser.original).__name__} attended to the text")
    return kept


def text_stream(denoiser: "Denoiser", text: Inputs) -> Stream:
    """A text as it reaches the first block of joint attention, to be carried by the guided call."""
    inputs = {**denoiser.batch.inputs(denoiser.inputs), **denoiser.of_every_row(text)}
    with denoiser.suspended():
        return capture_stream(denoiser.family, denoiser.original, denoiser.batch, lambda: denoiser.aside(inputs))
