"""All metrics, by name."""

from collections.abc import Mapping
from dataclasses import replace

from vidguide.eval import adherence, guards, similarity, steadiness
from vidguide.eval.encoders import Encoder
from vidguide.eval.metric import REGISTRY, Metric

ENCODERS = ("clip", "xclip", "dino")  # namespaces whose metrics need weights that the user has
ORDER = ("world", *ENCODERS, "temporal", "vbench", "guard")  # of namespaces, in lists and tables
MODULES = (steadiness, guards, adherence, similarity)  # importing one registers its metrics

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
    able = {name for name in METRICS if namespace(name) not in ENCODERS or namespace(name) in given}
    picked: set[str] = able if names is None else set()
    for name in names or ():
        found = [id_ for id_ in METRICS if name in (id_, namespace(id_))]
        if not found:
            raise ValueError(f"metrics={name!r}: there is no such metric; there are {', '.join(METRICS)}")
        picked.update(found)
    picked |= {guard.id for id_ in picked for guard in METRICS[id_].guards if guard.id in able}
    weights = {kind: encoder.weights for kind, encoder in given.items()}
    return [
        replace(metric, weights=weights.get(namespace(id_), "")) for id_, metric in METRICS.items() if id_ in picked
    ]
