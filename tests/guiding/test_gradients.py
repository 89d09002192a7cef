"""Gradients of guided predictions: by finite differences, under gradient checkpointing, and after the block."""

from collections.abc import Callable
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
from vidguide.transformer.family import family_of

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
PAIRS: list[tuple[str, ...]] = [
    ("NAG", "EMAG"),
    ("NAG", "PAG"),
    ("VSF", "STG"),
    ("VSF", "SEG"),
    ("EMAG", "STG"),
    ("PAG", "SEG"),
    ("NAG", "CFG"),
]
SINGLE: list[tuple[str, ...]] = [(name,) for name in MAKERS]
families = pytest.mark.parametrize("family", FAMILIES)
some_families = pytest.mark.parametrize(  # for the tests of every guidance
    "family",
    [pytest.param(name, marks=[] if name in ("Wan", "HunyuanVideo") else pytest.mark.slow) for name in FAMILIES],
)


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

    EMAG and APG average over the steps; the first is a constant of the second's gradients.
    """

    def __init__(self, family: str, names: tuple[str, ...], negative: Values | None = None) -> None:
        self.family, self.names = family, names
        self.negative = negative_of(family) if negative is None else negative
        self.inputs = tiny(family).exact(tiny(family).inputs(2))

    def guidances(self) -> list[Guidance]:
        return [MAKERS[name](self.negative) for name in self.names]

    def loss(
        self,
        model: Any,
        latents: Tensor,
        backward: bool = False,
        within: bool = True,
        change: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Return a sum of the second prediction with fixed random weights.

        Args:
            backward: whether to call backward. within: whether to do so within the block.
            change: called between the two steps.
        """
        scheduler = FlowMatchEulerDiscreteScheduler()
        with guide(model, *self.guidances(), scheduler=scheduler):
            scheduler.set_timesteps(2)
            with torch.no_grad():
                model(**{**self.inputs, "hidden_states": 0.7 * self.inputs["hidden_states"] + 0.1})
            change()
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
    values = [function(at + n * step * direction).item() for n in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


def direction_like(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute norms and rotary embeddings in float64, which the models compute in float32."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("names", SINGLE + PAIRS[:1], ids="+".join)
@some_families
def test_gradients_equal_difference_quotients(family: str, names: tuple[str, ...]) -> None:
    training, name = Training(family, names), WEIGHTS[family]
    gradients, model = training.gradients(), make(family)
    latents = training.inputs["hidden_states"]
    weight = model.get_parameter(name)
    original = weight.detach().clone()

    def by_weight(value: Tensor) -> Tensor:
        weight.data = original
        return training.loss(model, latents, change=lambda: setattr(weight, "data", value))

    for at, gradient, function in (
        (latents, gradients["latents"], partial(training.loss, model)),
        (original, gradients[name], by_weight),
    ):
        direction = direction_like(at)
        expected = difference_quotient(function, at, direction)
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=2e-5, abs=1e-7)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("names", SINGLE + PAIRS, ids="+".join)
@some_families
def test_checkpointing_changes_no_bit_of_the_gradients(family: str, names: tuple[str, ...]) -> None:
    training = Training(family, names)
    expected = training.gradients()
    for within in (True, False):  # backward within the block, and after it
        gradients = training.gradients(checkpointing=True, within=within)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            assert torch.equal(gradient, expected[name]), name


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", ["NAG", "VSF", "CFG"])
@families
def test_gradients_reach_the_negatives_embeddings(family: str, name: str) -> None:
    negative = negative_of(family)
    text = negative["encoder_hidden_states"]

    def loss(value: Tensor) -> Tensor:
        training = Training(family, (name,), {**negative, "encoder_hidden_states": value})
        return training.loss(make(family), training.inputs["hidden_states"])

    leaf = text.clone().requires_grad_()
    loss(leaf).backward()
    direction = direction_like(text)
    assert leaf.grad is not None
    expected = difference_quotient(loss, text, direction)
    assert (leaf.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert abs(expected) > 1e-4


@families
def test_a_frozen_model_passes_gradients_to_the_latents_and_caches_the_negative(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = tiny(family).make().requires_grad_(False), tiny(family).inputs(2)
    nag, scheduler, plans = NAG(negative_prompt_embeds=tiny(family).negative()), FlowMatchEulerDiscreteScheduler(), []
    make_plan = NAG.attention_plan

    def counted(*args: Any) -> Any:
        plans.append(make_plan(*args))
        return plans[-1]

    monkeypatch.setattr(NAG, "attention_plan", counted)
    with guide(model, nag, scheduler=scheduler):
        scheduler.set_timesteps(2)
        for timestep in scheduler.timesteps:
            latents = inputs["hidden_states"].clone().requires_grad_()
            model(**{**inputs, "hidden_states": latents})[0].sum().backward()
            assert latents.grad is not None
            scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    assert len(plans) == (2 if family_of(model).text_varies(model.config) else 1)


def test_the_negatives_keys_follow_the_weights_after_each_update() -> None:
    model, training = make("Wan"), Training("Wan", ("NAG",))
    scheduler, latents = FlowMatchEulerDiscreteScheduler(), training.inputs["hidden_states"]
    with guide(model, *training.guidances(), scheduler=scheduler):
        scheduler.set_timesteps(2)
        model(**training.inputs)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
        later = model(**training.inputs)[0]
    assert torch.equal(later, prediction_of_first_step(model, training, latents))


def prediction_of_first_step(model: Any, training: Training, latents: Tensor) -> Tensor:
    with guide(model, *training.guidances()):
        prediction: Tensor = model(**{**training.inputs, "hidden_states": latents})[0]
        return prediction


@families
def test_several_steps_of_training_with_an_optimizer(family: str) -> None:
    """Backward after each step frees its graph and the optimizer changes the weights, which later plans follow."""

    def train(checkpointing: bool) -> list[Tensor]:
        model = make(family, checkpointing)
        training, scheduler = Training(family, ("NAG", "EMAG", "APG")), FlowMatchEulerDiscreteScheduler()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        with guide(model, *training.guidances(), scheduler=scheduler):
            scheduler.set_timesteps(3)
            for timestep in scheduler.timesteps:
                model(**training.inputs)[0].square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
        return [weight.detach() for weight in model.parameters()]

    assert all(map(torch.equal, train(True), train(False)))


@families
def test_backward_through_all_steps_of_a_run_under_checkpointing(family: str) -> None:
    """What EMAG averages in later steps does not change what backward computes again of earlier ones."""

    def gradient(checkpointing: bool) -> Tensor:
        model, training = make(family, checkpointing), Training(family, ("EMAG map", "STG"))
        scheduler, predictions = FlowMatchEulerDiscreteScheduler(), []
        latents = training.inputs["hidden_states"].clone().requires_grad_()
        with guide(model, *training.guidances(), scheduler=scheduler):
            scheduler.set_timesteps(3)
            for step, timestep in enumerate(scheduler.timesteps):
                predictions.append(model(**{**training.inputs, "hidden_states": latents * (1 + step)})[0])
                scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
        torch.stack(predictions).square().mean().backward()
        assert latents.grad is not None
        return latents.grad

    assert torch.equal(gradient(True), gradient(False))


def test_backward_within_another_guide_of_the_same_model() -> None:
    training = Training("Wan", ("NAG", "PAG"))
    model, expected = make("Wan", checkpointing=True), training.gradients()
    latents = training.inputs["hidden_states"].clone().requires_grad_()
    loss = training.loss(model, latents)
    with guide(model, VSF(negative_prompt_embeds=training.negative), STG(layers=(0,))):
        guided = model(**training.inputs)[0]
        loss.backward()
        assert torch.equal(model(**training.inputs)[0], guided)
    assert latents.grad is not None
    assert torch.equal(latents.grad, expected["latents"])


REENTRANT = partial(checkpoint, use_reentrant=True)


@families
def test_reentrant_checkpointing_is_refused(family: str) -> None:
    training, model = Training(family, ("NAG",)), make(family)
    model.enable_gradient_checkpointing(REENTRANT)
    with pytest.raises(RuntimeError, match="with use_reentrant=True"):
        training.loss(model, training.inputs["hidden_states"].clone().requires_grad_())


@pytest.mark.parametrize("options", [{"use_reentrant": False}, {"use_reentrant": True}])
@pytest.mark.parametrize(
    "neutral", [NAG(scale=1, negative_prompt_embeds=torch.zeros(1, 7, 16)), PAG(scale=0), EMAG(scale=1)]
)
@families
def test_neutral_guidances_change_no_bit_of_the_gradients(family: str, neutral: Guidance, options: Values) -> None:
    inputs = tiny(family).exact(tiny(family).inputs(2))

    def gradients(*guidances: Guidance) -> list[Tensor]:
        model, latents = make(family), inputs["hidden_states"].clone().requires_grad_()
        model.enable_gradient_checkpointing(partial(checkpoint, **options))
        with guide(model, *guidances, scheduler=FlowMatchEulerDiscreteScheduler()):
            model(**{**inputs, "hidden_states": latents})[0].square().mean().backward()
        return [tensor.grad for tensor in (latents, *model.parameters()) if tensor.grad is not None]

    for gradient, expected in zip(gradients(neutral), gradients(), strict=True):
        assert torch.equal(gradient, expected)
