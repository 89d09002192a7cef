"""NAG and EMAG as guiders of modular pipelines: the same output as `guide()`."""

import dataclasses
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.helpers.common_pipelines import STEPS, SUBJECTS, Subject
from tests.helpers.snapshots import snapshots_equal

pytest.importorskip("diffusers.modular_pipelines.ltx")  # before 0.37 the base class of guiders was different

from diffusers.modular_pipelines.ltx.modular_blocks_ltx import LTXCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan22 import Wan22CoreDenoiseStep

from vidguide import EMAG, NAG, guide
from vidguide.pipelines.diffusers_guiders import EMAGGuidance, NAGGuidance

BLOCKS = {"Wan": WanCoreDenoiseStep, "LTX": LTXCoreDenoiseStep, "Wan, two transformers": Wan22CoreDenoiseStep}
each_pipeline = pytest.mark.parametrize("name", BLOCKS)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def modular_pipeline(subject: Subject, pipe: Any, make: Any) -> Any:
    """Return the modular pipeline with the components of a standard one.

    Args:
        subject: case of `common_pipelines`.
        pipe: standard pipeline.
        make: function that returns a guider.
    """
    modular = BLOCKS[subject.name]().init_pipeline()
    if "transformer_2" in modular.components:
        modular.update_components(transformer_2=pipe.transformer_2, guider_2=make(), boundary_ratio=0.5)
    modular.update_components(transformer=pipe.transformer, scheduler=pipe.scheduler, guider=make())
    return modular


def sample(subject: Subject, modular: Any) -> Tensor:
    call = {name: subject.case.call[name] for name in ("height", "width", "num_frames")}
    text, negative = subject.text(1, 7, 2), subject.text(1, 7, 6)
    call |= subject.case.text(text) | subject.case.text(negative, "negative_")
    if subject.name != "LTX":  # the pipeline would draw latents of the default size of Wan
        call["latents"] = torch.randn(1, 4, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    latents: Tensor = modular(**call, num_inference_steps=STEPS, generator=generator, output="latents")
    return latents


def plain_guider(scale: float) -> Any:
    """Return a function that makes diffusers' guider for classifier-free guidance."""
    return lambda: diffusers.ClassifierFreeGuidance(guidance_scale=scale)


@each_pipeline
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["NAG", "EMAG"])
def test_a_guider_gives_the_output_of_guide(name: str, scale: float, kind: str) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    plain = modular_pipeline(subject, pipe, plain_guider(scale))
    unguided = sample(subject, plain)
    negative = subject.text(1, 7, 6)
    guidance = NAG(scale=5, negative_prompt_embeds=negative) if kind == "NAG" else EMAG(scale=3)
    with guide(plain, guidance):
        expected = sample(subject, plain)
    make = partial(NAGGuidance if kind == "NAG" else EMAGGuidance, scale=guidance.scale, guidance_scale=scale)
    modular = modular_pipeline(subject, pipe, make)
    for _ in range(2):
        torch.testing.assert_close(sample(subject, modular), expected, atol=1e-5, rtol=1e-4)
    assert (expected - unguided).abs().mean() > 1e-3
    assert torch.equal(sample(subject, modular_pipeline(subject, pipe, plain_guider(scale))), unguided)


@each_pipeline
def test_an_error_restores_the_transformer(name: str, snapshot: Any) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    modular = modular_pipeline(subject, pipe, NAGGuidance)
    sample(subject, modular)
    before = snapshot(pipe.transformer)
    handle = pipe.transformer.proj_out.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        sample(subject, modular)
    handle.remove()
    assert snapshots_equal(snapshot(pipe.transformer), before)


def fail(*args: Any) -> None:
    raise ZeroDivisionError("in the middle of a call")


def test_bad_parameters_and_missing_negative_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tau=0\.5"):
        NAGGuidance(tau=0.5)
    with pytest.raises(ValueError, match="variant='video'"):
        EMAGGuidance(variant="video")
    subject = SUBJECTS["Wan"]
    modular = modular_pipeline(subject, subject.pipe(), NAGGuidance)
    with pytest.raises(ValueError, match="has no text_encoder block"), guide(modular, NAG(negative_prompt="blurry")):
        pass


def test_a_disabled_guider_changes_nothing_and_a_copy_has_the_same_parameters() -> None:
    subject = SUBJECTS["Wan"]
    pipe = subject.pipe()
    unguided = sample(subject, modular_pipeline(subject, pipe, plain_guider(1.0)))
    assert torch.equal(sample(subject, modular_pipeline(subject, pipe, lambda: NAGGuidance(enabled=False))), unguided)
    assert NAGGuidance(tau=3.0).new(alpha=0.5).config.tau == 3.0


def test_the_guiders_defaults_are_those_of_the_guidance() -> None:
    for guider, guidance in ((EMAGGuidance(), EMAG()), (NAGGuidance(), NAG(negative_prompt="red"))):
        defaults = {field.name: getattr(guidance, field.name) for field in dataclasses.fields(guidance)}
        shared = {name: value for name, value in guider.config.items() if name in defaults}
        assert {"scale", "start", "stop", "layers"} <= shared.keys()
        assert shared == {name: defaults[name] for name in shared}
