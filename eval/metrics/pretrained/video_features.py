"""Features of whole clips by video networks, from which `compare` computes the distances FVD and JEDi between arms."""

from typing import Any

import numpy as np

from vidguide.eval.encoders.video import PREPROCESSING
from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.sample import Sample

DIGITS = 6  # after the point of stored features
MAGNITUDE: dict[str, Any] = dict(
    version=PREPROCESSING, unit="root mean square of the features", low=0.0, high=float("inf"), better="", min_frames=2
)


def magnitude(sample: Sample, kind: str) -> Value:
    """Return the root mean square of the features of a clip, which are in the details."""
    encoder = sample.encoder(kind)
    features = encoder.clip(sample.clip.frames).astype(np.float64).round(DIGITS)
    count = len(sample.clip.frames)
    remarks = [f"{kind}: the last of {count} frames was repeated to {encoder.frames}"] if count < encoder.frames else []
    value = float(np.sqrt(np.square(features).mean()))
    return Value(value=value, details={"features": features.tolist(), "remarks": remarks})


@metric(id="fvd.magnitude", **MAGNITUDE, encoders=("fvd",))
def fvd_magnitude(sample: Sample) -> Value:
    """Measure the magnitude of a clip's features by I3D or VideoMAE, from which `compare` computes FVD.

    Direction: none; it is here for the details, which hold the features. `compare` reports the Fréchet distance between
    the arms (FVD) for more prompts than features, corrected by the jackknife, so that it is smaller than the published,
    biased one; and the kernel distance for any number. Range: from 0.
    Unit: that of the features: I3D's logits, or the mean of VideoMAE's tokens. 16 frames at the centres of equal
    segments of the clip, at 224 pixels.
    Fooled by: FVD prefers sharp single frames over correct motion (Ge et al. 2024, arXiv 2404.12391); features that are
    not normal.
    Source: Unterthiner et al. 2019 (FVD); VideoMAE as in Ge et al. 2024.
    """
    return magnitude(sample, "fvd")


@metric(id="jedi.magnitude", **MAGNITUDE, encoders=("jedi",))
def jedi_magnitude(sample: Sample) -> Value:
    """Measure the magnitude of a clip's features by V-JEPA 2, from which `compare` computes JEDi.

    Direction: none; it is here for the details, which hold the features. `compare` reports JEDi between the arms: 100
    times the squared kernel distance with the kernel `(x y / D)^2`, without the terms of a prompt with itself, so that
    it is unbiased and may be negative, unlike the published one. Range: from 0. Unit: that of the features: of the
    attentive pooler where the folder has a classifier, else the mean of the tokens.
    Fooled by: anything that V-JEPA 2 does not see; not comparable with published values, which use V-JEPA (ViT-H/16).
    Source: Luo et al., Beyond FVD, ICLR 2025 (arXiv 2410.05203), and its code, oooolga/JEDi.
    """
    return magnitude(sample, "jedi")
