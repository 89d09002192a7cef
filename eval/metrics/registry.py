"""All metrics, by id."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from vidguide.eval.encoders.transformers import Encoder
from vidguide.eval.metrics import (
    guards,
    human_preference,
    periodicity,
    point_tracks,
    temporal,
    vbench,
    vbench_external,
    world_attributes,
    world_similarity,
)
from vidguide.eval.metrics.base import REGISTRY, Metric
from vidguide.eval.metrics.pretrained import clip_similarity, preference, video_features, visual_question

# Order of namespaces in lists and tables.
ORDER = (
    *("preference", "world", "dual", "clip", "xclip", "vqa", "pickscore", "hps", "dino", "temporal"),
    *("vbench", "external", "guard", "fvd", "jedi"),
)
# Importing these modules registers their metrics.
MODULES = (
    *(human_preference, temporal, periodicity, point_tracks, guards, world_attributes, world_similarity),
    *(clip_similarity, visual_question, preference, video_features, vbench, vbench_external),
)


def namespace(name: str) -> str:
    """Return the part of a metric id before the dot."""
    return name.partition(".")[0]


METRICS: dict[str, Metric] = dict(sorted(REGISTRY.items(), key=lambda item: ORDER.index(namespace(item[0]))))


def select_metrics(names: list[str] | None, available: Collection[str] = ()) -> list[Metric]:
    """Select metrics by id or by namespace (`temporal`, `guard`, `vbench`, `world`, `clip`, ...), with their guards.

    Args:
        names: None for all that can be computed.
        available: kinds of encoders.

    Raises:
        ValueError: a name is neither a metric nor a namespace; the message lists the metrics.
    """
    computable = {name for name, metric in METRICS.items() if set(metric.encoders) <= set(available)}
    selected = computable.copy() if names is None else {id_ for name in names for id_ in match_name(name)}
    selected |= {guard.id for id_ in selected for guard in METRICS[id_].guards if guard.id in computable}
    return [metric for id_, metric in METRICS.items() if id_ in selected]


def match_name(name: str) -> list[str]:
    """Return the metrics of an id or namespace.

    Raises:
        ValueError: there is none.
    """
    matches = [id_ for id_ in METRICS if name in (id_, namespace(id_))]
    if not matches:
        raise ValueError(f"metrics={name!r}: no such metric; must be one of {', '.join(METRICS)}")
    return matches


def with_weights(metric: Metric, available: Mapping[str, Encoder]) -> Metric:
    """Return the metric with names and hashes of the weights in use, as part of its definition."""
    weights = [available[kind].weights for kind in metric.encoders if kind in available]
    return replace(metric, weights=", ".join(weights)) if metric.encoders else metric
