"""Compare two arms as sets of clips: how far apart they are, and how far each is from ideal renderings of its prompts.

The features of each clip are in the details of its rows. The unit is the prompt, and intervals are those of means over
prompts, applied to the jackknife's pseudo-values; see :mod:`vidguide.eval.scoring.set_distances`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.world_attributes import requested_scene
from vidguide.eval.scoring.set_distances import (
    Kernel,
    Values,
    covered,
    cubic_kernel,
    frechet_distance,
    kernel_pseudo_values,
    kernel_terms,
    pseudo_values,
    quadratic_kernel,
    swap_p_value,
)
from vidguide.eval.scoring.statistics import Estimate, Key, estimate, estimate_difference
from vidguide.eval.world.ideal import defects
from vidguide.eval.world.scene import ATTRIBUTES, Scene, render

Row = Mapping[str, Any]
Features = dict[str, Values]  # prompt id to (clips, D)

MIN_PROMPTS = 6  # for an interval
RENDERINGS = 4  # of each prompt


@dataclass(frozen=True)
class FeatureSpace:
    """Features of clips: the metric in whose details they are, their key, and how to compute those of a rendering.

    The kernel is that of the kernel distance between arms.
    """

    metric: str
    key: str
    compute: Callable[[Any], Values] | None = None
    kernel: Kernel = cubic_kernel


@dataclass(frozen=True, kw_only=True)
class SetDistance:
    """One number about two arms, or about each arm and ideal renderings.

    Attributes:
        name: of the distance.
        reference, other: of each arm and the renderings, with intervals; None for a distance between the arms.
        difference: other minus reference; or the distance between the arms.
        p: two-sided of no difference; or one-sided of arms that can be exchanged.
        better: "higher", "lower", or "" for a distance between arms.
    """

    name: str
    reference: Estimate | None
    other: Estimate | None
    difference: Estimate
    p: float | None
    better: str = ""


def dual_features(frames: Any) -> Values:
    """Return the features of a rendering by the dual encoder."""
    from vidguide.eval.world.shipped_encoder import shipped_encoder

    return np.asarray(shipped_encoder().clip(frames), np.float64)


SPACES = {
    "motion": FeatureSpace("temporal.track_consistency", "motion_histogram"),
    "dual": FeatureSpace("dual.similarity", "features", dual_features),
    "oracle": FeatureSpace("world.ideal_distance", "defects", defects),
    "fvd": FeatureSpace("fvd.magnitude", "features"),
    "jedi": FeatureSpace("jedi.magnitude", "features", kernel=quadratic_kernel),
}


def compare_sets(reference: Sequence[Row], other: Sequence[Row]) -> list[SetDistance]:
    """Return the distances of two arms in every feature space in which enough prompts have features."""
    distances = []
    for name, space in SPACES.items():
        first, second = shared_features(reference, other, space)
        if len(first) < MIN_PROMPTS:
            continue
        distances += arm_distances(name, list(first.values()), list(second.values()), space.kernel)
        if space.compute:
            ideal = rendered_features(first, reference, space)
            if ideal:
                distances += rendering_distances(name, first, second, ideal)
    return distances


def shared_features(reference: Sequence[Row], other: Sequence[Row], space: FeatureSpace) -> tuple[Features, Features]:
    """Return the features of both arms by prompt, of the clips whose prompt and seed both have."""
    left, right = (features_by_key(rows, space) for rows in (reference, other))
    keys = [key for key in left if key in right]
    prompts = dict.fromkeys(prompt for prompt, _ in keys)
    first, second = (
        {prompt: np.stack([side[key] for key in keys if key[0] == prompt]) for prompt in prompts}
        for side in (left, right)
    )
    return first, second


def features_by_key(rows: Sequence[Row], space: FeatureSpace) -> dict[Key, Values]:
    """Return the features of each prompt and seed; of several clips the mean."""
    grouped: dict[Key, list[Values]] = {}
    for row in rows:
        features = (row.get("details") or {}).get(space.key) if row["metric"] == space.metric else None
        if row["status"] == "ok" and features:
            grouped.setdefault((row["prompt_id"], row["seed"]), []).append(np.asarray(features, float))
    return {key: np.mean(group, axis=0) for key, group in grouped.items()}


def arm_distances(name: str, first: list[Values], second: list[Values], kernel: Kernel) -> list[SetDistance]:
    """Return the kernel distance between two arms, and the Fréchet distance where there are more prompts than features.

    With fewer, the jackknife does not remove the bias of the Fréchet distance: benchmarks/results/set_distances.md.
    """
    terms = kernel_terms(first, second, kernel)
    p = swap_p_value(terms)
    values = {"Fréchet": frechet_pseudo_values(first, second)} if len(first) > first[0].shape[1] else {}
    values["kernel"] = kernel_pseudo_values(terms)
    return [
        SetDistance(
            name=f"{name}: {kind} distance between the arms",
            reference=None,
            other=None,
            difference=estimate(pseudo.tolist()),
            p=p if kind == "kernel" else None,
        )
        for kind, pseudo in values.items()
    ]


def frechet_pseudo_values(first: list[Values], second: list[Values]) -> Values:
    """Return the jackknife pseudo-values `(P,)` of the Fréchet distance of two sets of the same prompts."""

    def distance(prompts: list[int]) -> float:
        return frechet_distance(*(np.concatenate([part[i] for i in prompts]) for part in (first, second)))

    return pseudo_values(distance, len(first))


def rendered_features(prompts: Features, rows: Sequence[Row], space: FeatureSpace) -> Features:
    """Return the features of renderings of each prompt; empty if a prompt is not of the synthetic world.

    Attributes that a prompt does not name are drawn at random, each time anew.
    """
    assert space.compute
    texts = {row["prompt_id"]: row.get("eval_prompt") for row in rows if row["metric"] == space.metric}
    result = {}
    for prompt in prompts:
        try:
            scene = requested_scene(texts[prompt])
        except UndefinedError:
            return {}
        random = np.random.default_rng(crc32(prompt.encode()))
        drawn = [render(complete_scene(scene, random), random) for _ in range(RENDERINGS)]
        result[prompt] = np.stack([space.compute(frames) for frames in drawn])
    return result


def complete_scene(scene: Scene, random: np.random.Generator) -> Scene:
    """Return the scene with random values of the attributes that it does not name."""
    return Scene(**{name: getattr(scene, name) or str(random.choice(values)) for name, values in ATTRIBUTES.items()})


def rendering_distances(name: str, first: Features, second: Features, ideal: Features) -> list[SetDistance]:
    """Return the Fréchet and the kernel distance of each arm to the renderings, and its precision and recall."""
    arms, real = (list(first.values()), list(second.values())), list(ideal.values())
    frechet = [frechet_pseudo_values(arm, real) for arm in arms]
    kernels = [kernel_pseudo_values(kernel_terms(arm, real)) for arm in arms]
    precision = [shares_covered(arm, real) for arm in arms]
    recall = [shares_covered(real, arm) for arm in arms]
    return [
        paired_distance(f"{name}: Fréchet distance to renderings", frechet, "lower"),
        paired_distance(f"{name}: kernel distance to renderings", kernels, "lower"),
        paired_distance(f"{name}: precision", precision, "higher", (0.0, 1.0)),
        paired_distance(f"{name}: recall", recall, "higher", (0.0, 1.0)),
    ]


def shares_covered(points: list[Values], manifold: list[Values]) -> Values:
    """Return the share of the points of each prompt on the manifold of a set."""
    everything = np.concatenate(manifold)
    return np.array([covered(part, everything).mean() for part in points])


def paired_distance(
    name: str, arms: Sequence[Values], better: str, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> SetDistance:
    """Return the estimates of both arms and of their difference, from a value per prompt."""
    reference, other = (estimate(values.tolist(), bounds) for values in arms)
    difference, p = estimate_difference((arms[1] - arms[0]).tolist())
    return SetDistance(name=name, reference=reference, other=other, difference=difference, p=p, better=better)
