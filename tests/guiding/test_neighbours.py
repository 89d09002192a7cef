"""A clip does not depend on the others of its batch: guided in a batch of three, each equals its run alone.

Models differ in how a batch reaches their attention: rows are samples (Wan), share the sequence with text (CogVideoX),
the kernel is called once per sample (Mochi), or a row is a frame or a place of a sample (Latte).
"""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.helpers.sampling import ALWAYS
from tests.helpers.tiny_families import BY_NAME, Tiny, Values, noise, row
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
from vidguide.tracing.run import Run

BATCH, STEPS = 3, 4
WAN, COGVIDEOX = "WanTransformer3DModel", "CogVideoXTransformer3DModel/rotary"
MOCHI, LATTE = "MochiTransformer3DModel", "LatteTransformer3DModel"
MODELS = (WAN, COGVIDEOX, MOCHI, LATTE)
ATOL = {WAN: 1e-12, COGVIDEOX: 1e-12, MOCHI: 1e-6, LATTE: 1e-12}  # Mochi's norms compute in float32


def emag(**parameters: Any) -> EMAG:
    return EMAG(decay=0.5, scale=4, layers=(0, 1), **ALWAYS, **parameters)


Make = Callable[[Values, int], Guidance]  # from a negative and the index of the sample, 0 for the batch
EMAGS: dict[str, Make] = {
    "EMAG": lambda negative, index: emag(),
    "EMAG relative": lambda negative, index: emag(measure="relative"),
    "EMAG previous": lambda negative, index: emag(select="previous", strength=0.7),
    "EMAG all": lambda negative, index: emag(select="all"),
    "EMAG map": lambda negative, index: emag(variant="map", rescale=0.5),
    "EMAG map-video": lambda negative, index: emag(variant="map-video"),
}
EXTENTS: dict[str, Make] = {
    "EMAG spatial": lambda negative, index: emag(extent="spatial"),
    "EMAG temporal": lambda negative, index: emag(extent="temporal", measure="relative"),
    "EMAG map temporal": lambda negative, index: emag(extent="temporal", variant="map"),
    "PAG spatial": lambda negative, index: PAG(layers=(0, 1), extent="spatial"),
    "SEG temporal": lambda negative, index: SEG(layers=(0, 1), extent="temporal"),
    "STG temporal": lambda negative, index: STG(mode="attention", layers=(0, 1), extent="temporal"),
}
OTHERS: dict[str, Make] = {
    "NAG": lambda negative, index: NAG(negative_prompt_embeds=negative, scale=5),
    "NAG by clip": lambda negative, index: NAG(negative_prompt_embeds=negative, scale=5, tau=1.1, norm="clip"),
    "VSF": lambda negative, index: VSF(negative_prompt_embeds=negative),
    "STG": lambda negative, index: STG(layers=(1,)),
    "PAG": lambda negative, index: PAG(layers=(1,), rescale=0.7),
    "SEG": lambda negative, index: SEG(layers=(1,), over_frames=True),
    "TPG": lambda negative, index: TPG(layers=(1,)),
    "S2Guidance": lambda negative, index: S2Guidance(),
    "EnhanceAVideo": lambda negative, index: EnhanceAVideo(weight=4.0),
    "CADS": lambda negative, index: CADS(full=0.3, none=1.0, seed=7 + index),
}
RULES: dict[str, Make] = {
    "CFG": lambda negative, index: CFG(negative_prompt_embeds=negative, rescale=0.7),
    "APG": lambda negative, index: APG(negative_prompt_embeds=negative, radius=2, momentum=-0.5),
    "CFGZeroStar": lambda negative, index: CFGZeroStar(negative_prompt_embeds=negative),
    "TCFG": lambda negative, index: TCFG(negative_prompt_embeds=negative),
    "MAMBOG": lambda negative, index: MAMBOG(negative_prompt_embeds=negative),
}
EVERY = {**EMAGS, **EXTENTS, **OTHERS, **RULES}


def calls_of(tiny: Tiny, index: int | None = None) -> list[Values]:
    """Return a call per step, of the batch, or of one of its samples.

    The samples differ in scale, so that they choose different layers.
    """
    inputs = tiny.exact(tiny.inputs(BATCH))
    shape = inputs["hidden_states"].shape
    sizes = torch.tensor([0.3, 1.0, 3.0]).view(-1, *[1] * (len(shape) - 1)).to(tiny.dtype)
    videos = [inputs["hidden_states"] + sizes * noise(*shape, seed=60 + n).to(tiny.dtype) for n in range(STEPS)]
    calls = [{**inputs, "hidden_states": video} for video in videos]
    return calls if index is None else [row(call, index, BATCH) for call in calls]


def sample(tiny: Tiny, calls: list[Values], guidances: tuple[Guidance, ...], cfg: bool = False) -> tuple[Tensor, Run]:
    """Return the predictions of all steps `(B, steps, ...)`, and the run; `cfg` doubles the batch as pipelines do."""
    model, scheduler, predictions = tiny.make().to(tiny.dtype), FlowMatchEulerDiscreteScheduler(), []
    pipe = SimpleNamespace(transformer=model, scheduler=scheduler, do_classifier_free_guidance=cfg)
    with guide(pipe, *guidances) as run:
        scheduler.set_timesteps(len(calls))
        for inputs, timestep in zip(calls, scheduler.timesteps, strict=True):
            predictions.append(prediction_of(model(**inputs)))
            scheduler.step(predictions[-1], timestep, predictions[-1])
    return torch.stack(predictions, 1), run


def sample_and_alone(name: str, *kinds: str) -> tuple[Tensor, Tensor, Tensor, Run, list[Run]]:
    """Return the predictions of the batch, of its samples alone and without guidance, and the runs."""
    tiny = BY_NAME[name]
    negative = tiny.exact(tiny.negative())

    def guidances(index: int) -> tuple[Guidance, ...]:
        return tuple(EVERY[kind](negative, index) for kind in kinds)

    together, run = sample(tiny, calls_of(tiny), guidances(0))
    singles = [sample(tiny, calls_of(tiny, index), guidances(index)) for index in range(BATCH)]
    unguided, _ = sample(tiny, calls_of(tiny), ())
    return together, torch.cat([alone for alone, _ in singles]), unguided, run, [run for _, run in singles]


def assert_independent(name: str, *kinds: str) -> None:
    """Assert that each sample of a batch equals its run alone, in its predictions and in what EMAG chose for it."""
    together, alone, unguided, run, runs = sample_and_alone(name, *kinds)
    assert (together - unguided).abs().amax((1, *range(2, together.ndim))).min() > 100 * ATOL[name]
    torch.testing.assert_close(together, alone, atol=ATOL[name], rtol=0)
    for index, single in enumerate(runs):
        for choice, expected in zip(run.trace.choices, single.trace.choices, strict=True):
            if choice.samples:
                assert choice.samples[index].layers == expected.samples[0].layers == expected.layers


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", EMAGS)
@pytest.mark.parametrize("name", MODELS)
def test_a_clip_under_emag_does_not_depend_on_the_others(name: str, kind: str) -> None:
    assert_independent(name, kind)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", EXTENTS)
@pytest.mark.parametrize("name", [WAN, COGVIDEOX, MOCHI])
def test_heads_of_an_extent_are_of_each_clip(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads_by_sample(monkeypatch)
    assert_independent(name, kind)


def heads_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make heads spatial or temporal according to the sign of their queries, so that samples differ; each sample has a
    head of each extent in every layer."""

    def mass(query: Tensor, *args: Any) -> Tensor:
        first = query[:, :, 0].sum((1, 2)) > query[:, :, 1].sum((1, 2))
        spatial = torch.stack([first, ~first], 1)
        return torch.stack([spatial, ~spatial], -1).float()

    monkeypatch.setattr("vidguide.edits.head_selection.attention_mass", mass)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [*OTHERS, *RULES])
@pytest.mark.parametrize("name", [WAN, pytest.param(COGVIDEOX, marks=pytest.mark.slow)])
def test_a_clip_under_other_guidances_does_not_depend_on_the_others(name: str, kind: str) -> None:
    assert_independent(name, kind)


def drawn_pairs(count: int) -> list[tuple[str, str]]:
    """Draw pairs of guidances of different classes that may be combined, with a fixed seed."""
    draw, texts = random.Random(0), ("NAG", "NAG by clip", "VSF")
    pairs = [
        (first, second)
        for first in EMAGS
        for second in (*OTHERS, *RULES)
        if not (first.startswith("EMAG map") and second in texts)
    ]
    return [*draw.sample(pairs, count), ("NAG", "PAG"), ("CADS", "APG"), ("S2Guidance", "CFGZeroStar")]


@pytest.mark.parametrize("kinds", drawn_pairs(6), ids="+".join)
def test_a_clip_under_two_guidances_does_not_depend_on_the_others(kinds: tuple[str, str]) -> None:
    assert_independent(WAN, *kinds)


def test_samples_choose_different_layers() -> None:
    """The comparisons above would hold for a selection per batch, if all samples agreed."""
    tiny = BY_NAME[WAN]
    _, run = sample(tiny, calls_of(tiny), (emag(),))
    assert any(len({one.layers for one in choice.samples}) > 1 for choice in run.trace.choices)
    mixed = next(choice for choice in run.trace.choices if len({one.layers for one in choice.samples}) > 1)
    assert mixed.layers == (0, 1)
    assert " | ".join(str(one.layers[0]) for one in mixed.samples) in str(run.trace)


def pair(values: Values, index: int) -> Values:
    """Return one sample of both halves of a batch."""

    def rows(value: Any) -> Any:
        batched = isinstance(value, Tensor) and value.shape[:1] == (2 * BATCH,)
        return value[[index, BATCH + index]] if batched else value

    return {name: rows(value) for name, value in values.items()}


@pytest.mark.parametrize("kind", ["EMAG", "EMAG map", "EMAG spatial", "PAG spatial", "CADS"])
@pytest.mark.parametrize("name", [COGVIDEOX, MOCHI])
def test_a_clip_does_not_depend_on_the_others_in_a_batch_with_an_unconditional_half(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads_by_sample(monkeypatch)
    tiny = BY_NAME[name]
    inputs = tiny.exact(tiny.inputs(2 * BATCH))
    shape = inputs["hidden_states"].shape
    sizes = torch.tensor([0.3, 1.0, 3.0] * 2).view(-1, *[1] * (len(shape) - 1)).to(tiny.dtype)
    calls = [{**inputs, "hidden_states": sizes * noise(*shape, seed=80 + n).to(tiny.dtype)} for n in range(STEPS)]
    together, _ = sample(tiny, calls, (EVERY[kind]({}, 0),), cfg=True)
    unguided, _ = sample(tiny, calls, (), cfg=True)
    assert not torch.allclose(together, unguided, atol=1e-3)
    for index in range(BATCH):
        alone, _ = sample(tiny, [pair(call, index) for call in calls], (EVERY[kind]({}, index),), cfg=True)
        torch.testing.assert_close(together[[index, BATCH + index]], alone, atol=ATOL[name], rtol=0)
