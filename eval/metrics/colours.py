"""Brightness, contrast and saturation of each frame, from the mean and the covariance of its colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709
CHROMA = np.eye(3) - LUMA  # from a colour to its differences from its luma

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Colours:
    """Numbers per frame `(F,)`, in levels of 0..255.

    Attributes:
        luma: mean luma.
        contrast: standard deviation of the luma over pixels.
        saturation: root mean square over pixels and channels of the difference of a colour and its luma.
    """

    luma: Values
    contrast: Values
    saturation: Values


def colours(frames: NDArray[np.uint8]) -> Colours:
    """Return the colours of a clip `(F, H, W, 3)`."""
    moments = [colour_moments(frame) for frame in frames]
    mean, covariance = np.stack([mean for mean, _ in moments]), np.stack([covariance for _, covariance in moments])
    contrast = np.sqrt(np.einsum("fcd,c,d->f", covariance, LUMA, LUMA).clip(0))
    second = covariance + np.einsum("fc,fd->fcd", mean, mean)
    saturation = np.sqrt(np.einsum("ic,fcd,id->f", CHROMA, second, CHROMA).clip(0) / 3)
    return Colours(mean @ LUMA, contrast, saturation)


def colour_moments(frame: NDArray[np.uint8]) -> tuple[Values, Values]:
    """Return the mean `(3,)` and the covariance `(3, 3)` of the colours of a frame `(H, W, 3)`."""
    import cv2

    mean = cv2.mean(frame)
    centred = cv2.subtract(frame, mean, dtype=cv2.CV_32F).reshape(-1, 3)  # type: ignore[call-overload] # not in the stubs
    return np.array(mean[:3]), (centred.T @ centred).astype(np.float64) / len(centred)
