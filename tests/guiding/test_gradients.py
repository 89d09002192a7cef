"""Gradients of guided predictions: by finite differences, under gradient checkpointing, and after the block."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.helpers.tiny_families import BY_NAME, Tiny
from vidguide import APG, CFG, EMAG, NAG, PAG, SEG, STG, TPG, VSF, EnhanceAVideo, S2Guidance, guide
from vidguide.guidances.base import Guidance

Values = dict[str, Any]
FAMILIES = {
    "Wan": "WanTransformer3DModel",
    "CogVideoX": "CogVideoXTransformer3DModel/rotary",
    "HunyuanVideo": "HunyuanVideoTransformer3DModel",
    "LTX": "LTXVideoTransformer3DModel",
}
# A projection of keys, through which the prompt, the negative and the video pass.
WEIGHTS = {
    "Wan": "blocks.1.attn2.to_k.weight",
    "CogVideoX": "transformer_blocks.1.attn1.to_k.weight",
    "HunyuanVideo": "transformer_blocks.1.attn.add_k_proj.weight",
    "LTX": "transformer_blocks.1.attn2.to_k.weight",
}
EVERY_STEP: Values = dict(decay=0.5, start=0.0, stop=1.0)
MAKERS: dict[str, Callable[[Values], Guidance]] = {
    "NAG": lambda negative: NAG(negative_prompt_embeds=negative, scale=4.0),
    "VSF": lambda negative: VSF(negative_prompt_embeds=negative),
    "EMAG": lambda negative: EMAG(scale=3.0, select=(1,), **EVERY_STEP),
    "EMAG map": lambda negative: EMAG(scale=3.0, variant="map", strength=0.7, select=(0, 1), **EVERY_STEP),
    "PAG": lambda negative: PAG(scale=2.0, layers=(1,)),
    "STG": lambda negative: STG(scale=1.5, layers=(1,)),
    "SEG": lambda negative: SEG(scale=2.0, sigma=1.0, layers=(1,)),
    "TPG": lambda negative: TPG(scale=0.5, layers=(0, 1)),
    "S2": lambda negative: S2Guidance(scale=1.5, layers=(1,)),
    "EnhanceAVideo": lambda negative: EnhanceAVideo(weight=4.0),
    "CFG": lambda negative: CFG(scale=3.0, negative_prompt_embeds=negative),
    "APG": lambda negative: APG(scale=3.0, negative_prompt_embeds=negative, momentum=-0.5),
}
PAIRS = [
    ("NAG", "EMAG"),
    ("NAG", "PAG"),
    ("VSF", "STG"),
    ("VSF", "SEG"),
    ("EMAG", "STG"),
    ("PAG", "SEG"),
    ("NAG", "CFG"),
]
SETS = [(name,) for name in MAKERS] + PAIRS
families = pytest.mark.parametrize("family", FAMILIES)
sets = pytest.mark.parametrize("names", SETS, ids="+".join)


def tiny(family: str) -> Tiny:
    return BY_NAME[FAMILIES[family]]


def make(family: str, checkpointing: bool = False) -> Any:
    """Return a model in float64 whose weights require gradients."""
    model = tiny(family).make().double().requires_grad_(True)
    if checkpointing:
        model.enable_gradient_checkpointing()
    return model


def negative_of(family: str) -> Values:
    return tiny(family).exact(tiny(family).negative())


class Training:
    """Two steps of a guided model: the first without gradients, the second with them.

    The first step gives EMAG and APG an earlier step to remember.
    """

    def __init__(self, family: str, names: tuple[str, ...], negative: Values | None = None) -> None:
        self.family, self.names = family, names
        self.negative = negative_of(family) if negative is None else negative
        self.inputs = tiny(family).exact(tiny(family).inputs(2))

    def guidances(self) -> list[Guidance]:
        return [MAKERS[name](self.negative) for name in self.names]

    def loss(self, model: Any, latents: Tensor, backward: bool = False, within: bool = True) -> Tensor:
        """Return a sum of the second prediction with fixed random weights, and call backward within the block or not."""
        scheduler = FlowMatchEulerDiscreteScheduler()
        with guide(model, *self.guidances(), scheduler=scheduler):
            scheduler.set_timesteps(2)
            with torch.no_grad():
                model(**{**self.inputs, "hidden_states": 0.7 * self.inputs["hidden_states"] + 0.1})
            scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1))
            prediction = model(**{**self.inputs, "hidden_states": latents})[0]
            weights = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
            loss = (prediction * weights).sum() / weights.numel() ** 0.5
            if backward and within:
                loss.backward()
        if backward and not within:
            loss.backward()
        return loss

    def gradients(self, checkpointing: bool = False, within: bool = True) -> dict[str, Tensor]:
        """Return the gradients of all weights and of the latents."""
        model = make(self.family, checkpointing)
        latents = self.inputs["hidden_states"].clone().requires_grad_()
        self.loss(model, latents, backward=True, within=within)
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        return {**gradients, "latents": latents.grad}


def difference_quotient(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> float:
    """Return the derivative of a function along a direction, by central differences of fourth order."""
    step = 1e-3 / float(direction.abs().max())
    with torch.no_grad():
        values = [function(at + n * step * direction).item() for n in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


def direction_like(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@sets
@families
def test_gradients_equal_difference_quotients(family: str, names: tuple[str, ...]) -> None:
    training, name = Training(family, names), WEIGHTS[family]
    gradients, model = training.gradients(), make(family)
    latents = training.inputs["hidden_states"]
    weight = model.get_parameter(name)
    original = weight.detach().clone()

    def by_weight(value: Tensor) -> Tensor:
        weight.data = value
        return training.loss(model, latents)

    for at, gradient, function in (
        (latents, gradients["latents"], partial(training.loss, model)),
        (original, gradients[name], by_weight),
    ):
        direction = direction_like(at)
        expected = difference_quotient(function, at, direction)
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=2e-5, abs=1e-7)
        weight.data = original


@pytest.mark.parametrize("within", [True, False], ids=["within the block", "after the block"])
@sets
@families
def test_checkpointing_changes_no_bit_of_the_gradients(family: str, names: tuple[str, ...], within: bool) -> None:
    training = Training(family, names)
    expected, gradients = training.gradients(), training.gradients(checkpointing=True, within=within)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name]), name
