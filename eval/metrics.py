"""All metrics that need no weights, by name."""

from vidguide.eval import adherence, guards, steadiness
from vidguide.eval.metric import REGISTRY, Metric

ORDER = ("world", "temporal", "vbench", "guard")  # of namespaces, in lists and tables
MODULES = (steadiness, guards, adherence)  # importing one registers its metrics

METRICS: dict[str, Metric] = dict(sorted(REGISTRY.items(), key=lambda item: ORDER.index(item[0].partition(".")[0])))


def chosen(names: list[str] | None) -> list[Metric]:
    """Metrics by id or by namespace (`temporal`, `guard`, `vbench`, `world`); all that are registered for None.

    Guards of a chosen metric come along: without them a gain cannot be judged.

    Raises:
        ValueError: a name that is neither, naming what there is.
    """
    if names is None:
        return list(METRICS.values())
    picked: set[str] = set()
    for name in names:
        found = [id_ for id_ in METRICS if id_ == name or id_.partition(".")[0] == name]
        if not found:
            raise ValueError(f"metrics={name!r}: there is no such metric; there are {', '.join(METRICS)}")
        picked.update(found)
    picked |= {guard.id for id_ in picked for guard in METRICS[id_].guards if guard.id in METRICS}
    return [metric for id_, metric in METRICS.items() if id_ in picked]
