"""A guidance of your own: away from the model whose attention returns the mean of all values."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidguide import generate
from vidguide.guidances.layer_perturbation import LayerPerturbation
from vidguide.pipelines.loading.load import load


def mean_of_values(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the mean of the values `(B, N, H, C)` for each query, as attention at infinite temperature does."""
    return value.mean(1, keepdim=True).expand_as(query)


@dataclass(frozen=True, kw_only=True, eq=False)
class UniformAttention(LayerPerturbation):
    """`c + scale (c - c_p)`, where the middle layer of the perturbed pass has uniform attention."""

    def perturbation(self, call: Any, site: Any) -> Any:
        """Return what takes the place of self-attention."""
        return mean_of_values


pipe = load("tiny")
for scale in (0.0, 0.5):
    clip = generate("a large circle", guidance=[UniformAttention(scale=scale)], pipe=pipe, steps=10)
    print(clip.save(f"out/uniform-{scale}.mp4"), clip.provenance["trace"])
