"""Random guided runs of tiny models, compared with the plain formulas and with laws that hold for every guidance.

`python -m tests.helpers.fuzz --seed N` checks the run of one seed. Where it fails, it prints the smallest run that
fails as well, as the same command with `--drop`: guidances and settings that are left out.
"""

import argparse
import random
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.helpers.plain_guidance import ORACLES, active_steps, plain_predictions
from tests.helpers.snapshots import snapshot_of, snapshots_equal
from tests.helpers.tiny_families import BY_NAME, Tiny, Values, cast, noise
from vidguide import (
    APG,
    CADS,
    CFG,
    EMAG,
    MAMBOG,
    NAG,
    PAG,
    SEG,
    STG,
    TCFG,
    TPG,
    VSF,
    CFGZeroStar,
    EnhanceAVideo,
    S2Guidance,
    guide,
)
from vidguide.calls.outputs import prediction_of
from vidguide.guidances.base import Guidance

Settings = dict[str, Any]
WAN, COGVIDEOX = "WanTransformer3DModel", "CogVideoXTransformer3DModel/rotary"
MODES = {  # how the pipeline applies classifier-free guidance: not at all, in two calls, or in a batch of both
    WAN: ("none", "calls"),
    COGVIDEOX: ("none", "batch"),
    "MochiTransformer3DModel": ("none", "batch"),
    "LatteTransformer3DModel": ("none", "batch"),
    "HunyuanVideoTransformer3DModel": ("none",),
}
FLOW: Settings = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS: dict[str, Callable[[], Any]] = {
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**FLOW),
    "ddim": lambda: diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction"),
}


@dataclass(frozen=True)
class Kind:
    """A guidance, and what is drawn for it.

    Attributes:
        base: settings that it always has. choices: settings that may be drawn. neutral: settings that switch it off.
        windowed: whether it has `start` and `stop`.
    """

    make: type[Guidance]
    base: Settings
    choices: dict[str, tuple[Any, ...]]
    neutral: Settings
    windowed: bool = True


LAYERS: dict[str, tuple[Any, ...]] = {"scale": (0.5, 2.0), "layers": ((0,), (1,))}
RULE: dict[str, tuple[Any, ...]] = {"scale": (1.5, 7.0)}
KINDS = {
    "CADS": Kind(CADS, {"full": 0.3, "none": 0.9}, {"mixing": (0.0, 0.5), "seed": (3,)}, {"scale": 0.0}, False),
    "EMAG": Kind(
        EMAG,
        {"scale": 4.0, "decay": 0.5, "layers": (0, 1), "start": 0.0, "stop": 1.0},
        {
            "decay": (0.3, 0.988),
            "select": ("largest", "previous", (1,)),
            "measure": ("relative",),
            "variant": ("map",),
            "strength": (0.7,),
            "average_from": (0.0, 0.2),
        },
        {"scale": 1.0},
    ),
    "EnhanceAVideo": Kind(EnhanceAVideo, {"weight": 4.0}, {"weight": (1.0,)}, {"weight": -1.0}),
    "NAG": Kind(NAG, {"scale": 5.0}, {"tau": (1.2,), "alpha": (0.5, 1.0), "norm": ("frame", "clip")}, {"alpha": 0.0}),
    "PAG": Kind(PAG, {"layers": (1,)}, LAYERS, {"scale": 0.0}),
    "S2Guidance": Kind(S2Guidance, {"layers": (1,)}, LAYERS, {"scale": 0.0}),
    "SEG": Kind(SEG, {"layers": (1,), "sigma": 1.0}, {**LAYERS, "sigma": (0.5, 2.0)}, {"scale": 0.0}),
    "STG": Kind(STG, {"layers": (1,)}, {**LAYERS, "mode": ("attention",)}, {"scale": 0.0}),
    "TPG": Kind(TPG, {"layers": (1,)}, LAYERS, {"scale": 0.0}),
    "VSF": Kind(VSF, {}, {"scale": (2.0,)}, {}),
    "CFG": Kind(CFG, {}, RULE, {"scale": 1.0}),
    "APG": Kind(APG, {}, {**RULE, "eta": (0.0, 0.5), "radius": (0.0, 50.0), "momentum": (-0.5, 0.3)}, {"scale": 1.0}),
    "CFGZeroStar": Kind(CFGZeroStar, {}, {**RULE, "zero_steps": (0, 2)}, {"scale": 1.0}),
    "TCFG": Kind(TCFG, {}, RULE, {"scale": 1.0}),
    "MAMBOG": Kind(MAMBOG, {}, {**RULE, "alpha": (0.5, 8.0)}, {"scale": 1.0}),
}
RULES = ("CFG", "APG", "CFGZeroStar", "TCFG", "MAMBOG")
TEXTS = ("NAG", "VSF")
ADDED = tuple(name for name in KINDS if name not in (*RULES, *TEXTS))


@dataclass(frozen=True)
class Case:
    """A guided run.

    Attributes:
        cfg: "none", "calls" or "batch": see `MODES`. guidances: the drawn settings of each.
    """

    seed: int
    model: str
    batch: int
    steps: int
    scheduler: str
    cfg: str
    guidances: dict[str, Settings]

    @property
    def tiny(self) -> Tiny:
        return BY_NAME[self.model]

    def settings(self, name: str) -> Settings:
        return {**KINDS[name].base, **self.guidances[name]}

    @property
    def all_settings(self) -> dict[str, Settings]:
        return {name: self.settings(name) for name in self.guidances}

    @property
    def negative(self) -> Values:
        """The negative's text, for Wan as long as the prompt."""
        values = self.tiny.text(1, 7, 5) if self.model == WAN else self.tiny.negative()
        return self.tiny.exact(values)

    def make(self, index: int = 0, neutral: bool = False) -> list[Guidance]:
        """Return the guidances.

        Args:
            index: of the sample that is alone, whose noise CADS has then.
            neutral: whether to switch all off.
        """
        made = []
        for name, kind in KINDS.items():
            if name in self.guidances and not (neutral and not kind.neutral):
                settings = {**self.settings(name), **(kind.neutral if neutral else {})}
                if name == "CADS":
                    settings["seed"] = settings.get("seed", 0) + index
                if name in (*TEXTS, *RULES):
                    settings["negative_prompt_embeds"] = self.negative
                make: Any = kind.make
                made.append(make(**settings))
        random.Random(self.seed).shuffle(made)
        return made

    def dropped(self, part: str) -> "Case":
        """Return the run without a guidance (`EMAG`), a setting of one (`EMAG.start`), or something of the run."""
        plain = {"batch": 1, "steps": 2, "scheduler": "flow", "cfg": "none"}
        if part in plain:
            changes: Settings = {part: plain[part]}
            return replace(self, **changes)
        name, _, setting = part.partition(".")
        guidances = {one: dict(settings) for one, settings in self.guidances.items() if one != name or setting}
        if setting:
            del guidances[name][setting]
        return replace(self, guidances=guidances)

    @property
    def parts(self) -> list[str]:
        """What can be dropped."""
        settings = [f"{name}.{setting}" for name, values in self.guidances.items() for setting in values]
        return [*self.guidances, *settings, "cfg", "scheduler", "batch", "steps"]


def draw_case(seed: int) -> Case:
    """Draw a run that no guidance refuses."""
    draw = random.Random(seed)
    model = draw.choice(list(MODES)) if draw.random() < 0.4 else draw.choice([WAN, COGVIDEOX])
    cfg, steps = draw.choice(MODES[model]), draw.randint(2, 5)
    names = draw.sample(ADDED, draw.randint(0, 3))
    names += draw.sample(TEXTS, draw.randint(0, 1)) + (draw.sample(RULES, draw.randint(0, 1)) if cfg == "none" else [])
    names = names or ["EMAG"]
    guidances = {name: draw_settings(draw, name, steps) for name in sorted(names)}
    if set(names) & set(TEXTS) and "EMAG" in names:
        guidances["EMAG"].pop("variant", None)  # refused: maps are measured in the attention that both edit
    return Case(seed, model, draw.randint(1, 3), steps, draw.choice(list(SCHEDULERS)), cfg, guidances)


def draw_settings(draw: random.Random, name: str, steps: int) -> Settings:
    kind = KINDS[name]
    settings = {one: draw.choice(values) for one, values in kind.choices.items() if draw.random() < 0.5}
    if kind.windowed and draw.random() < 0.6:
        first = draw.randint(0, steps - 1)
        settings |= {"start": first / steps, "stop": draw.randint(first + 1, steps) / steps}
    if "average_from" in settings:
        settings["average_from"] = min(settings["average_from"], settings.get("start", 0.0))
    return settings


class Calls:
    """The calls of a run, one per step, with as many rows again for the unconditional half."""

    def __init__(self, case: Case) -> None:
        self.case, self.rows = case, 2 * case.batch
        tiny, scheduler = case.tiny, SCHEDULERS[case.scheduler]()
        scheduler.set_timesteps(case.steps)
        inputs, self.single = tiny.exact(tiny.inputs(self.rows)), tiny.inputs(1)
        shape = inputs["hidden_states"].shape
        sizes = torch.tensor([0.3, 1.0, 3.0, 0.5, 1.5, 2.0][: self.rows]).view(-1, *[1] * (len(shape) - 1))
        self.steps: list[Values] = []
        for step, timestep in enumerate(scheduler.timesteps):
            video = sizes * noise(*shape, seed=(97 * case.seed + step) % 2**40) + inputs["hidden_states"]
            values = {**inputs, "hidden_states": video, "timestep": timestep.expand(self.rows)}
            self.steps.append(cast(values, tiny.dtype))

    def of(self, rows: Sequence[int]) -> list[Values]:
        """Return the calls of some rows; those of the conditional half come last."""

        def taken(name: str, value: Any) -> Any:
            batched = isinstance(value, Tensor) and value.shape[:1] == (self.rows,)
            return value[list(rows)] if batched and (name == "timestep" or len(self.single[name]) == 1) else value

        return [{name: taken(name, value) for name, value in step.items()} for step in self.steps]


def sample(case: Case, model: Any, samples: Sequence[int], guidances: Sequence[Guidance]) -> list[Tensor]:
    """Return the prediction of each step, with classifier-free guidance the unconditional rows first."""
    calls, batch = Calls(case), case.batch
    cond, uncond = calls.of([batch + one for one in samples]), calls.of(samples)
    both = calls.of([*samples, *(batch + one for one in samples)])
    scheduler, predictions = SCHEDULERS[case.scheduler](), []
    pipe = SimpleNamespace(transformer=model, scheduler=scheduler, do_classifier_free_guidance=case.cfg != "none")
    with torch.no_grad(), guide(pipe, *guidances) if guidances else nullcontext():
        scheduler.set_timesteps(case.steps)
        for step, timestep in enumerate(scheduler.timesteps):
            if case.cfg == "calls":
                with model.cache_context("cond"):
                    first = prediction_of(model(**cond[step]))
                with model.cache_context("uncond"):
                    prediction = torch.cat([prediction_of(model(**uncond[step])), first])
            else:
                prediction = prediction_of(model(**(both if case.cfg == "batch" else cond)[step]))
            predictions.append(prediction)
            scheduler.step(torch.zeros(1, 1), timestep, torch.zeros(1, 1))
    return predictions


class Run:
    """A run and its checks, which raise an AssertionError."""

    def __init__(self, case: Case) -> None:
        self.case, self.model = case, case.tiny.make().to(case.tiny.dtype)
        self.plain = self.sample([])
        self.before = snapshot_of(self.model)  # after a plain run: `cache_context` leaves a registry of hooks
        self.guided = self.sample(case.make())

    def sample(self, guidances: Sequence[Guidance]) -> list[Tensor]:
        return sample(self.case, self.model, range(self.case.batch), guidances)

    def close(self, ours: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """Compare, relative to the largest value; norms and rotary embeddings compute in float32."""
        for step, (one, other) in enumerate(zip(ours, expected, strict=True)):
            error, size = (one - other).abs().max().item(), other.abs().max().item()
            assert error <= 2e-6 * max(size, 1.0), f"step {step} differs by {error:.2g} of {size:.2g}"

    def restored(self) -> None:
        assert snapshots_equal(snapshot_of(self.model), self.before), "the model is not as before"
        self.same(self.sample([]), self.plain, "after the block")

    def same(self, ours: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
        for step, (one, other) in enumerate(zip(ours, expected, strict=True)):
            assert torch.equal(one, other), f"step {step} {what} differs by {(one - other).abs().max():.2g}"

    def outside(self) -> None:
        """Steps at which no guidance acts are unguided, bit for bit."""
        acting = set[int]().union(*(active_steps(*item, self.case.steps) for item in self.case.all_settings.items()))
        steps = [step for step in range(self.case.steps) if step not in acting]
        self.same([self.guided[n] for n in steps], [self.plain[n] for n in steps], "outside of all windows")

    def order(self) -> None:
        self.same(self.sample(self.case.make()[::-1]), self.guided, "in the other order")

    def neutral(self) -> None:
        guidances = self.case.make(neutral=True)
        assert all(guidance.neutral for guidance in guidances)
        self.same(self.sample(guidances), self.plain, "under neutral guidances")

    def singles(self) -> None:
        """A batch equals its samples alone."""
        batch = self.case.batch
        for index in range(batch if batch > 1 else 0):
            alone = sample(self.case, self.model, [index], self.case.make(index))
            rows = [index] if self.case.cfg == "none" else [index, batch + index]
            self.close([prediction[rows] for prediction in self.guided], alone)

    def formula(self) -> None:
        """The predictions are those of the plain formulas, for models and guidances that have them."""
        case = self.case
        if case.model not in (WAN, COGVIDEOX) or not set(case.guidances) <= ORACLES[case.model]:
            return
        calls, batch = Calls(case), case.batch
        uncond = None if case.cfg == "none" else calls.of(range(batch))
        cond, text = calls.of(range(batch, 2 * batch)), case.negative["encoder_hidden_states"]
        scheduler = SCHEDULERS[case.scheduler]()
        scheduler.set_timesteps(case.steps)
        self.close(self.guided, plain_predictions(self.model, cond, uncond, text, scheduler, case.all_settings))

    CHECKS = (restored, outside, order, neutral, singles, formula)


def failure_of(case: Case) -> str:
    """Return what fails in a run: the name of a check and its message; empty if nothing does."""
    name = "the run"
    diffusers.logging.set_verbosity_error()  # casts to float64
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of EMAG over few steps
            run = Run(case)
            for check in Run.CHECKS:
                name = check.__name__
                check(run)
    except Exception as error:  # a refusal too: only runs that no guidance refuses are drawn
        return f"{name}: {type(error).__name__}: {error}"
    return ""


def reduced(case: Case, fails: Callable[[Case], bool]) -> tuple[Case, list[str]]:
    """Return the smallest run that fails as well, and what was dropped from the given one."""
    dropped: list[str] = []
    for part in case.parts:
        if part in case.parts and (smaller := case.dropped(part)) != case and fails(smaller):
            case, dropped = smaller, [*dropped, part]
    return case, dropped


def command(seed: int, dropped: Sequence[str]) -> str:
    return " ".join([f"python -m tests.helpers.fuzz --seed {seed}", *(["--drop", *dropped] if dropped else [])])


def report(case: Case) -> str:
    """Return what fails in a run, with the command that reproduces the smallest one; empty if nothing does."""
    failure = failure_of(case)
    if not failure:
        return ""
    check = failure.partition(":")[0]
    smallest, dropped = reduced(case, lambda one: failure_of(one).partition(":")[0] == check)
    return f"{failure_of(smallest)}\n  {smallest}\n  {command(case.seed, dropped)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the run of a seed, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--drop", nargs="*", default=[], metavar="PART", help="guidances and settings to leave out")
    options = parser.parse_args(arguments)
    case = draw_case(options.seed)
    for part in options.drop:
        case = case.dropped(part)
    print(case)
    failure = failure_of(case) if options.drop else report(case)
    print(failure or "all checks pass")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
