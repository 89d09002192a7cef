"""Read and replace the predictions in a transformer's output, in whichever form it comes."""

from typing import Any

import torch
from torch import Tensor


def predictions_of(output: Any) -> list[Any]:
    """Return all predictions of an output: of the video first, then of the audio where there is any."""
    if isinstance(output, Tensor):
        return [output]
    return list(output.values() if isinstance(output, dict) else output)


def prediction_of(output: Any) -> Tensor:
    """Return the video's prediction; a list of one for each sample as a batch.

    Raises:
        TypeError: the output holds no tensor in its place.
    """
    prediction = predictions_of(output)[0]
    if isinstance(prediction, list):
        return torch.stack(prediction)
    if not isinstance(prediction, Tensor):
        raise TypeError(f"the transformer returned {type(prediction).__name__} where a tensor was expected")
    return prediction


def with_predictions(output: Any, predictions: list[Any]) -> Any:
    """Return the output with other predictions, in the form it came in."""
    if isinstance(output, Tensor):
        return predictions[0]
    if isinstance(output, tuple):
        return tuple(predictions)
    return type(output)(**dict(zip(output, predictions, strict=True)))
