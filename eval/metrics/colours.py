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
    mean, second = np.stack([mean for mean, _ in moments]), np.stack([second for _, second in moments])
    covariance = second - np.einsum("fc,fd->fcd", mean, mean)
    contrast = np.sqrt(np.einsum("fcd,c,d->f", covariance, LUMA, LUMA).clip(0))
    saturation = np.sqrt(np.einsum("ic,fcd,id->f", CHROMA, second, CHROMA).clip(0) / 3)
    return Colours(mean @ LUMA, contrast, saturation)


def colour_moments(frame: NDArray[np.uint8]) -> tuple[Values, Values]:
    """Return the means `(3,)` of the channels of a frame `(H, W, 3)`, and of their products `(3, 3)`.

    Sums of products of integers are exact: `2 a b = a^2 + b^2 - (a - b)^2`. OpenCV squares the root of a sum of
    squares, hence the rounding.
    """
    import cv2

    planes = [cv2.extractChannel(frame, channel) for channel in range(3)]
    squares = np.rint([cv2.norm(plane, cv2.NORM_L2SQR) for plane in planes])
    differences = np.rint([[cv2.norm(one, other, cv2.NORM_L2SQR) for other in planes] for one in planes])
    products = (squares[:, None] + squares - differences) / 2
    return np.array(cv2.sumElems(frame)[:3]) / planes[0].size, products / planes[0].size
