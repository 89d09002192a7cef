"""NAG and EMAG as guiders of modular pipelines: the same as on the standard pipeline of the same parts."""

import dataclasses
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.helpers.common_pipelines import STEPS, SUBJECTS, Subject
from tests.helpers.snapshots import same

pytest.importorskip("diffusers.modular_pipelines.ltx")  # what came before 0.37 had guiders of another kind

from diffusers.modular_pipelines.ltx.modular_blocks_ltx import LTXCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan22 import Wan22CoreDenoiseStep

from vidguide import EMAG, NAG, guide
from vidguide.pipelines.diffusers_guiders import EMAGGuidance, NAGGuidance

BLOCKS = {"Wan": WanCoreDenoiseStep, "LTX": LTXCoreDenoiseStep, "Wan, two transformers": Wan22CoreDenoiseStep}
each_pipeline = pytest.mark.parametrize("name", BLOCKS)


@pytest.fixture(autouse=True)
def _quick() -> Any:
    with torch.no_grad():
        yield


def modular(subject: Subject, pipe: Any, make: Any) -> Any:
    """The modular pipeline of a standard one's parts."""
    made = BLOCKS[subject.name]().init_pipeline()
    if "transformer_2" in made.components:
        made.update_components(transformer_2=pipe.transformer_2, guider_2=make(), boundary_ratio=0.5)
    made.update_components(transformer=pipe.transformer, scheduler=pipe.scheduler, guider=make())
    return made


def sample(subject: Subject, made: Any) -> Tensor:
    call = {name: subject.case.call[name] for name in ("height", "width", "num_frames")}
    text, negative = subject.text(1, 7, 2), subject.text(1, 7, 6)
    call |= subject.case.text(text) | subject.case.text(negative, "negative_")
    if subject.name != "LTX":  # of another size than Wan's own, by which the pipeline makes them
        call["latents"] = torch.randn(1, 4, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    latents: Tensor = made(**call, num_inference_steps=STEPS, generator=generator, output="latents")
    return latents


def own(scale: float) -> Any:
    return lambda: diffusers.ClassifierFreeGuidance(guidance_scale=scale)


@each_pipeline
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["NAG", "EMAG"])
def test_a_guider_is_the_guidance_around_the_pipeline(name: str, scale: float, kind: str) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    plain = modular(subject, pipe, own(scale))
    unguided = sample(subject, plain)
    negative = subject.text(1, 7, 6)
    around = NAG(scale=5, negative_prompt_embeds=negative) if kind == "NAG" else EMAG(scale=3)
    with guide(plain, around):
        expected = sample(subject, plain)
    make = partial(NAGGuidance if kind == "NAG" else EMAGGuidance, scale=around.scale, guidance_scale=scale)
    made = modular(subject, pipe, make)
    for _ in range(2):
        torch.testing.assert_close(sample(subject, made), expected, atol=1e-5, rtol=1e-4)
    assert (expected - unguided).abs().mean() > 1e-3
    assert torch.equal(sample(subject, modular(subject, pipe, own(scale))), unguided)


@each_pipeline
def test_an_error_leaves_the_transformer_bitwise(name: str, snapshot: Any) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    made = modular(subject, pipe, NAGGuidance)
    sample(subject, made)
    before = snapshot(pipe.transformer)
    handle = pipe.transformer.proj_out.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        sample(subject, made)
    handle.remove()
    assert same(snapshot(pipe.transformer), before)


def fail(*args: Any) -> None:
    raise ZeroDivisionError("in the middle of a call")


def test_bad_parameters_and_missing_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tau=0\.5"):
        NAGGuidance(tau=0.5)
    with pytest.raises(ValueError, match="variant='video'"):
        EMAGGuidance(variant="video")
    subject = SUBJECTS["Wan"]
    made = modular(subject, subject.pipe(), NAGGuidance)
    with pytest.raises(ValueError, match="has no encode_prompt"), guide(made, NAG(negative_prompt="blurry")):
        pass


def test_disabled_it_does_nothing_and_a_copy_has_its_parameters() -> None:
    subject = SUBJECTS["Wan"]
    pipe = subject.pipe()
    unguided = sample(subject, modular(subject, pipe, own(1.0)))
    assert torch.equal(sample(subject, modular(subject, pipe, lambda: NAGGuidance(enabled=False))), unguided)
    assert NAGGuidance(tau=3.0).new(alpha=0.5).config.tau == 3.0


def test_the_guiders_defaults_are_those_of_the_guidance() -> None:
    for guider, guidance in ((EMAGGuidance(), EMAG()), (NAGGuidance(), NAG(negative_prompt="red"))):
        defaults = {field.name: getattr(guidance, field.name) for field in dataclasses.fields(guidance)}
        shared = {name: value for name, value in guider.config.items() if name in defaults}
        assert {"scale", "start", "stop", "layers"} <= shared.keys()
        assert shared == {name: defaults[name] for name in shared}
