"""All metrics, by name."""

from collections.abc import Mapping
from dataclasses import replace

from vidguide.eval.encoders.transformers import Encoder
from vidguide.eval.metrics import clip_similarity as similarity
from vidguide.eval.metrics import guards, preference
from vidguide.eval.metrics import temporal as steadiness
from vidguide.eval.metrics import vbench as vbench_metrics
from vidguide.eval.metrics import vbench_external as external
from vidguide.eval.metrics import world_attributes as adherence
from vidguide.eval.metrics import world_similarity as dual_metrics
from vidguide.eval.metrics.base import REGISTRY, Metric

# Of namespaces, in lists and tables.
ORDER = ("world", "dual", "clip", "xclip", "pickscore", "hps", "dino", "temporal", "vbench", "external", "guard")
# Importing one registers its metrics.
MODULES = (steadiness, guards, adherence, dual_metrics, similarity, preference, vbench_metrics, external)

METRICS: dict[str, Metric] = dict(sorted(REGISTRY.items(), key=lambda item: ORDER.index(item[0].partition(".")[0])))


def namespace(name: str) -> str:
    """What stands before the dot."""
    return name.partition(".")[0]


def chosen(names: list[str] | None, encoders: Mapping[str, Encoder] | None = None) -> list[Metric]:
    """Metrics by id or by namespace (`temporal`, `guard`, `vbench`, `world`, `clip`, ...), with their guards.

    Args:
        names: None for all that can be computed.
        encoders: those at hand; their weights become part of the definition of the metrics that use them.

    Raises:
        ValueError: a name that is neither, naming what there is.
    """
    given = encoders or {}
    able = {name for name, metric in METRICS.items() if set(metric.encoders) <= set(given)}
    picked: set[str] = able if names is None else set()
    for name in names or ():
        found = [id_ for id_ in METRICS if name in (id_, namespace(id_))]
        if not found:
            raise ValueError(f"metrics={name!r}: there is no such metric; there are {', '.join(METRICS)}")
        picked.update(found)
    picked |= {guard.id for id_ in picked for guard in METRICS[id_].guards if guard.id in able}
    return [with_weights(metric, given) for id_, metric in METRICS.items() if id_ in picked]


def with_weights(metric: Metric, given: Mapping[str, Encoder]) -> Metric:
    """The metric with the names and hashes of the weights that it will use, as part of its definition."""
    used = [given[kind].weights for kind in metric.encoders if kind in given]
    return replace(metric, weights=", ".join(used)) if metric.encoders else metric
