"""Configuration of a tuning: checked before any model is loaded, and recorded in the folder."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from vidguide.clip import replace_whole
from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.files import read_object, unknown, validate
from vidguide.eval.metrics.base import Guard, Metric
from vidguide.eval.metrics.registry import METRICS, namespace
from vidguide.eval.metrics.world_attributes import negative_attributes, requested_scene
from vidguide.pipelines.request.schema import known_fields
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.sweep.config import (
    MAX_CLIPS,
    Arm,
    Prompt,
    Sweep,
    SweepFields,
    check_sweep,
    make_sweep,
    read_prompts,
)
from vidguide.pipelines.tuning.ranges import Space, parse_space

REFERENCE = "reference"  # arm without the guidance that is tuned
NAME = "tune.json"
CURE = "choose another folder"
BATCH = 8  # pairs between two looks at a trial
PARALLEL = 4  # trials that run at once
FEWEST = 6  # prompts that a 95% interval needs
RECOMMENDED = 3
LARGEST_SEED = 2**63 - MAX_CLIPS  # so that the seeds of all clips are below 2^63
MARGIN = 0.05  # relative, of a metric for which the objective declares no guard
SETS = ("fvd", "jedi", "external", "preference")  # namespaces of metrics that are not measured on each clip
Pair = tuple[str, int]  # prompt id and seed


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What to tune, on which clips, and for which metrics.

    Attributes:
        sweep: model, the prompts and seeds in use, and settings; its one arm is the reference.
        space: settings to try.
        objective: metric to improve.
        guards: changes that the metrics to keep must not reach.
        budget: number of clips, with those of the reference and of the held-out pairs.
        pairs: prompts and seeds to choose by, in the order in which they are used.
        held_out: prompts and seeds of the final comparison, none of which is in `pairs`.
        parallel: trials that run at once.
        seed: of proposals, of the division of the prompts, and of the first noise.
        encoders: models by kind, for metrics that need them.
    """

    sweep: Sweep
    space: Space
    objective: str
    guards: tuple[Guard, ...]
    budget: int
    pairs: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    parallel: int = PARALLEL
    seed: int = 0
    encoders: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> Arm:
        """The arm that trials are compared with."""
        return self.sweep.arms[0]

    @property
    def metrics(self) -> list[Metric]:
        """Metrics to compute: the objective, those to keep, and the objective's guards that need no further model."""
        names = {self.objective, *(guard.id for guard in self.guards)}
        names |= {g.id for g in METRICS[self.objective].guards if set(METRICS[g.id].encoders) <= set(self.encoders)}
        return [metric for id_, metric in METRICS.items() if id_ in names]

    @property
    def search_budget(self) -> int:
        """Number of clips without those of the held-out pairs."""
        return self.budget - (1 + RECOMMENDED) * len(self.held_out)

    def to_dict(self) -> dict[str, Any]:
        """Return everything that determines the trials, as JSON values; the device does not."""
        placement = {name: value for name, value in self.sweep.placement.items() if name not in ("device", "setup")}
        setup = self.sweep.placement.get("setup", Setup()).values()
        values = {
            "model": self.sweep.model,
            **placement,
            **({"setup": setup} if setup else {}),
            "settings": self.sweep.settings,
            "guidance": "+".join(self.space.parts),
            "over": [str(each) for each in self.space.ranges],
            "reference": self.reference.guidance,
            "objective": self.objective,
            "keep": [guard_text(guard) for guard in self.guards],
            "budget": self.budget,
            "parallel": self.parallel,
            "seed": self.seed,
            "encoders": dict(self.encoders),
            "prompts": [vars(prompt) for prompt in self.sweep.prompts],
            "pairs": self.pairs,
            "held_out": self.held_out,
        }
        content: dict[str, Any] = json.loads(json.dumps(values, default=str))
        return content


def guard_text(guard: Guard) -> str:
    """Return a guard as `metric:-0.05`, or with a percentage of the reference's mean."""
    return f"{guard.id}:{100 * guard.change:+g}%" if guard.relative else f"{guard.id}:{guard.change:+g}"


def make_tuning(
    model: str,
    guidance: str,
    over: Sequence[str],
    prompts: str | Path | Sequence[Any],
    objective: str,
    keep: Sequence[str] = (),
    *,
    budget: int = 200,
    negative_prompt: str | None = None,
    reference: str = "none",
    pairs: int | None = None,
    held_out: int | None = None,
    parallel: int = PARALLEL,
    seed: int = 0,
    encoders: Mapping[str, str] | None = None,
    placement: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Tuning:
    """Return a tuning.

    Args:
        model: as for :func:`vidguide.pipelines.loading.load.load`.
        guidance: spec of the guidance, with parameters that are the same in all trials.
        over: ranges of parameters, see :func:`vidguide.pipelines.tuning.ranges.parse_space`.
        prompts: file as for a sweep, or the entries of one.
        objective: metric to improve.
        keep: metrics that must not fall, each with a margin: `world.attributes:0.02` or `world.attributes:5%`. Without
            a margin that of the objective's guard, or 5% of the reference's mean; empty for all guards of it.
        budget: number of clips in all: without guidance, in trials, and of the final comparison.
        negative_prompt: of prompts that have none.
        reference: spec of the guidance to compare with.
        pairs: prompts and seeds to choose by; None for a twentieth of the budget, at least 12.
        held_out: those of the final comparison; None for a sixteenth of the budget, at least 12.
        parallel: trials that run at once, each with `BATCH` clips.
        seed: of proposals, of the division of the prompts, and of the first noise.
        encoders: models by kind, for metrics that need them.
        placement, settings: as in a sweep's file.

    Raises:
        ValueError, TypeError: naming the argument, its value and what it must be. OSError: a file cannot be read.
    """
    if not 0 <= seed < LARGEST_SEED:
        raise ValueError(f"seed={seed}: must be from 0 to {LARGEST_SEED - 1}")
    space = parse_space(guidance, over)
    sizes = check_sizes(budget, pairs, held_out, parallel)
    sweep = read_clips(model, prompts, negative_prompt, reference, dict(placement or {}), dict(settings or {}))
    corner = Arm(name="trial", guidance=space.spec({each.name: each.ends()[0] for each in space.ranges}))
    check_sweep(replace_arms(sweep, [*sweep.arms, corner]))
    names = check_metrics(objective, keep, encoders or {}, sweep.prompts)
    search, rest = divide(sweep.prompts, *sizes, seed)
    used = {id_ for id_, _ in (*search, *rest)}
    seeds = sorted({noise for _, noise in (*search, *rest)})
    selected = [prompt for prompt in sweep.prompts if prompt.id in used]
    return Tuning(
        sweep=Sweep(**{**vars(sweep), "prompts": selected, "seeds": seeds}),
        space=space,
        objective=objective,
        guards=tuple(names),
        budget=budget,
        pairs=tuple(search),
        held_out=tuple(rest),
        parallel=parallel,
        seed=seed,
        encoders=dict(encoders or {}),
    )


def replace_arms(sweep: Sweep, arms: list[Arm]) -> Sweep:
    """Return a sweep with other arms."""
    return Sweep(**{**vars(sweep), "arms": arms})


def check_sizes(budget: int, pairs: int | None, held_out: int | None, parallel: int) -> tuple[int, int]:
    """Return the numbers of pairs to choose by and held out.

    Raises:
        ValueError: a number is out of range, or the budget does not suffice for one trial.
    """
    sizes = pairs or max(12, budget // 20), held_out or max(12, budget // 16)
    for name, value, least in (("pairs", pairs, FEWEST), ("held_out", held_out, FEWEST), ("parallel", parallel, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")
    if budget > MAX_CLIPS:
        raise ValueError(f"budget={budget}: must be at most {MAX_CLIPS}")
    needed = 2 * sizes[0] + (1 + RECOMMENDED) * sizes[1]
    if budget < needed:
        parts = f"{sizes[0]} clips without guidance, {sizes[0]} of one trial, {1 + RECOMMENDED} x {sizes[1]} held out"
        raise ValueError(f"budget={budget}: must be at least {needed}: {parts}")
    return sizes


def read_clips(
    model: str,
    prompts: str | Path | Sequence[Any],
    negative_prompt: str | None,
    reference: str,
    placement: dict[str, Any],
    settings: dict[str, Any],
) -> Sweep:
    """Return the sweep of the reference; arguments and errors as for :func:`make_tuning`."""
    folder = Path()
    if isinstance(prompts, str | Path):
        folder = Path(prompts).parent
        prompts = read_prompts(Path(prompts))
    setup = placement.pop("setup", None)
    fields: dict[str, Any] = {"model": model, "prompts": list(prompts), "arms": {REFERENCE: {"guidance": reference}}}
    fields |= {} if negative_prompt is None else {"negative_prompt": negative_prompt}
    fields |= {name: value for name, value in {**placement, **settings}.items() if value is not None}
    sweep = make_sweep(validate(Annotated[SweepFields, known_fields(SweepFields)], fields, "tune"), folder)
    return sweep if setup is None else Sweep(**{**vars(sweep), "placement": {**sweep.placement, "setup": setup}})


def check_metrics(
    objective: str, keep: Sequence[str], encoders: Mapping[str, str], prompts: Sequence[Prompt]
) -> list[Guard]:
    """Return the guards of the metrics to keep.

    Raises:
        ValueError: a metric is unknown, has no better direction, needs a model that is not given, or is undefined for
            a prompt.
    """
    check_metric("objective", objective, encoders, prompts)
    if not METRICS[objective].better:
        raise ValueError(f"objective={objective!r}: has no better direction; use it in keep")
    if keep:
        guards = [guard for text in keep for guard in parse_keep(text, objective)]
    else:
        guards = [g for g in METRICS[objective].guards if set(METRICS[g.id].encoders) <= set(encoders)]
    if not guards:
        raise ValueError(f"keep: is missing, and {objective} has no guards; name the metrics that must not fall")
    for guard in guards:
        check_metric("keep", guard.id, encoders, prompts)
    if objective in {guard.id for guard in guards}:
        raise ValueError(f"keep={objective!r}: is the objective; name another metric")
    return guards


def parse_keep(text: str, objective: str) -> list[Guard]:
    """Return the guards of `metric`, `metric:0.02` or `metric:5%`: one, or two for a metric without a direction.

    Raises:
        ValueError: an unknown metric, or no margin.
    """
    name, colon, margin = (part.strip() for part in text.partition(":"))
    if name not in METRICS:
        raise ValueError(f"keep={text!r}: {unknown('metric', name, METRICS)}")
    declared = [guard for guard in METRICS[objective].guards if guard.id == name]
    if not colon and declared:
        return declared
    relative = margin.endswith("%") or not colon
    try:
        size = float(margin.removesuffix("%")) / (100 if relative else 1) if colon else MARGIN
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise ValueError(f"keep={text!r}: the margin must be a number above 0, or a percentage such as 5%")
    signs = {"higher": (-1,), "lower": (1,), "": (-1, 1)}[METRICS[name].better]
    words = {-1: "less", 1: "more"}
    return [Guard(id=name, change=sign * size, relative=relative, violation=f"{words[sign]} {name}") for sign in signs]


def check_metric(option: str, name: str, encoders: Mapping[str, str], prompts: Sequence[Prompt]) -> None:
    """Refuse a metric that is unknown, or whose values will be missing; raises as :func:`check_metrics`."""
    if name not in METRICS:
        raise ValueError(f"{option}={name!r}: {unknown('metric', name, METRICS)}")
    if namespace(name) in SETS:
        raise ValueError(f"{option}={name!r}: is not a value of each clip; choose another metric")
    missing = [kind for kind in METRICS[name].encoders if kind not in encoders]
    if missing:
        raise ValueError(f"{option}={name!r}: needs {' '.join(f'--{kind} MODEL' for kind in missing)}")
    for prompt in prompts:
        if "negative_prompt" in METRICS[name].needs and not prompt.negative_prompt:
            raise ValueError(f"{option}={name!r}: needs a negative_prompt, and {prompt.prompt!r} has none")
        if namespace(name) == "world":
            check_world_texts(option, name, prompt)


def check_world_texts(option: str, name: str, prompt: Prompt) -> None:
    """Refuse a prompt for which a metric of the shipped world is undefined."""
    try:
        requested_scene(prompt.eval_prompt)
        if "negative_prompt" in METRICS[name].needs:
            negative_attributes(prompt.negative_prompt)
    except UndefinedError as error:
        raise ValueError(f"{option}={name!r}: is undefined for {prompt.prompt!r}: {error}") from None


def divide(prompts: Sequence[Prompt], pairs: int, held_out: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Divide the prompts at random, and return the pairs to choose by and the held-out ones, with different seeds.

    Prompts of the same text, such as those with several negative prompts, are on the same side.

    Raises:
        ValueError: too few prompts.
    """
    texts = {prompt.id: " ".join(prompt.prompt.lower().split()) for prompt in prompts}
    ids = list(texts)
    random.Random(seed).shuffle(ids)
    different = list(dict.fromkeys(texts[id_] for id_ in ids))
    if len(different) < 2 * FEWEST:
        raise ValueError(
            f"prompts: {len(different)} different; must be at least {2 * FEWEST}: {FEWEST} to choose by and {FEWEST} "
            "held out, as an interval needs them"
        )
    share = round(len(different) * pairs / (pairs + held_out))
    left = set(different[: min(max(share, FEWEST), len(different) - FEWEST)])
    chosen = list(spread([id_ for id_ in ids if texts[id_] in left], pairs, seed))
    first = max(noise for _, noise in chosen) + 1
    return chosen, list(spread([id_ for id_ in ids if texts[id_] not in left], held_out, first))


def spread(ids: Sequence[str], count: int, first: int) -> Iterable[Pair]:
    """Yield pairs: all prompts at the first seed, then all at the next."""
    for number in range(count):
        yield ids[number % len(ids)], first + number // len(ids)


def record(tuning: Tuning, folder: Path) -> None:
    """Write the configuration into the folder, or compare it with the one there.

    Raises:
        ValueError: the folder has a tuning with another configuration, which is named, or other files.
    """
    path, now = folder / NAME, tuning.to_dict()
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        replace_whole(path, lambda temporary: temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8"))
        return
    earlier = read_object(path)
    for name in {**now, **earlier}:
        if earlier.get(name) != now.get(name):
            raise ValueError(f"output: {folder} has a tuning with {difference(name, earlier, now)}; {CURE}")


def difference(name: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs in a field: its values, or for prompts and pairs only its name."""
    if name in ("prompts", "pairs", "held_out"):
        return f"other {name}"
    return f"{name}={earlier.get(name)!r}, not {now.get(name)!r}"
