"""Guidances as the guider of a modular pipeline: the same output as `guide()`."""

import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.helpers.common_pipelines import STEPS, SUBJECTS, Subject
from tests.helpers.more_pipelines import MORE_CASES
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_pipelines import CASES, Case, name_of

pytest.importorskip("diffusers.modular_pipelines.ltx")  # before 0.37 the base class of guiders was different

from diffusers.modular_pipelines.ltx.modular_blocks_ltx import LTXCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan22 import Wan22CoreDenoiseStep

from vidguide import CADS, CFG, EMAG, NAG, PAG, STG, VSF, guide
from vidguide.guidances.base import Guidance
from vidguide.pipelines.guiders import VideoGuidance
from vidguide.pipelines.request.guidance_spec import GUIDANCES, guidance_class

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


LISTS: dict[str, tuple[Guidance, ...]] = {
    "NAG": (NAG(scale=5),),
    "VSF": (VSF(),),
    "EMAG": (EMAG(scale=3),),
    "PAG": (PAG(layers=(1,)),),
    "NAG, EMAG, STG, CADS": (NAG(scale=5, stop=0.5), EMAG(scale=3), STG(layers=(1,), mode="attention"), CADS()),
}


def with_embeddings(guidances: tuple[Guidance, ...], negative: Any) -> list[Any]:
    """Return guidances with a negative prompt, where they take one."""
    lists: Any = guidances
    return [dataclasses.replace(one, negative_prompt_embeds=negative) if one.reads_negative else one for one in lists]


@pytest.mark.sampled(2)
@each_pipeline
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("kinds", LISTS)
def test_a_guider_gives_the_output_of_guide(name: str, scale: float, kinds: str) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    plain = modular_pipeline(subject, pipe, plain_guider(scale))
    unguided = sample(subject, plain)
    with guide(plain, *with_embeddings(LISTS[kinds], subject.text(1, 7, 6))):
        expected = sample(subject, plain)
    make = partial(VideoGuidance, LISTS[kinds], guidance_scale=scale)
    modular = modular_pipeline(subject, pipe, make)
    for _ in range(2):
        torch.testing.assert_close(sample(subject, modular), expected, atol=1e-5, rtol=1e-4)
    assert (expected - unguided).abs().mean() > 1e-3
    assert torch.equal(sample(subject, modular_pipeline(subject, pipe, plain_guider(scale))), unguided)


def test_a_cfg_rule_takes_the_negative_prompt_of_the_pipeline() -> None:
    subject = SUBJECTS["Wan"]
    pipe = subject.pipe()
    expected = sample(subject, modular_pipeline(subject, pipe, plain_guider(3.0)))
    modular = modular_pipeline(subject, pipe, lambda: VideoGuidance([CFG(scale=3.0)]))
    torch.testing.assert_close(sample(subject, modular), expected, atol=1e-5, rtol=1e-4)


@each_pipeline
def test_an_error_restores_the_transformer(name: str, snapshot: Any) -> None:
    subject = SUBJECTS[name]
    pipe = subject.pipe()
    modular = modular_pipeline(subject, pipe, lambda: VideoGuidance([NAG(), PAG()], guidance_scale=3.0))
    sample(subject, modular)
    before = snapshot(pipe.transformer)
    handle = pipe.transformer.proj_out.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        sample(subject, modular)
    handle.remove()
    assert snapshots_equal(snapshot(pipe.transformer), before)


def fail(*args: Any) -> None:
    raise ZeroDivisionError("in the middle of a call")


@pytest.mark.parametrize(
    ("guidances", "scale", "message"),
    [
        ([NAG(negative_prompt="red")], 1.0, r"NAG\(negative_prompt='red'\) in a guider: leave it out"),
        ([NAG(), VSF()], 1.0, "NAG and VSF act on the same attention"),
        ([CFG()], 3.0, r"CFG and guidance_scale=3\.0"),
        ([PAG(rescale=0.5)], 3.0, r"PAG\(rescale=0\.5\) and guidance_scale=3\.0"),
        ([{"name": "NAGG"}], 1.0, "NAGG"),
        ([{"name": "NAG", "tau": 0.5}], 1.0, r"tau=0\.5"),
    ],
)
def test_what_does_not_fit_is_refused(guidances: list[Any], scale: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoGuidance(guidances, guidance_scale=scale)


def test_other_objects_and_missing_text_encoders_are_refused() -> None:
    with pytest.raises(TypeError, match="not a guidance"):
        VideoGuidance([3])  # type: ignore[list-item]
    subject = SUBJECTS["Wan"]
    modular = modular_pipeline(subject, subject.pipe(), lambda: VideoGuidance([NAG()]))
    with pytest.raises(ValueError, match="has no text_encoder block"), guide(modular, NAG(negative_prompt="blurry")):
        pass


def test_ltx2_takes_no_guider_but_its_own() -> None:
    modular_pipelines = pytest.importorskip("tests.helpers.modular_pipelines")
    case = next(case for case in modular_pipelines.CASES if case.name == "LTX2")
    pipe = case.pipe()
    pipe.update_components(guider=VideoGuidance([NAG()]))
    with pytest.raises(ValueError, match=r"inputs for 4 passes.*use guide\(pipe"):
        case.sample(pipe, prompt="a red circle", negative_prompt="blue")
    four = (torch.zeros(1),) * 4
    with pytest.raises(ValueError, match="inputs for 4 passes"):
        VideoGuidance([EMAG()]).prepare_inputs({"encoder_hidden_states": four})


def test_a_disabled_guider_changes_nothing() -> None:
    subject = SUBJECTS["Wan"]
    pipe = subject.pipe()
    unguided = sample(subject, modular_pipeline(subject, pipe, plain_guider(1.0)))
    disabled = modular_pipeline(subject, pipe, lambda: VideoGuidance([NAG()], enabled=False))
    assert torch.equal(sample(subject, disabled), unguided)


@pytest.mark.parametrize("name", GUIDANCES)
def test_a_saved_guider_equals_the_loaded_one(name: str, tmp_path: Path) -> None:
    guidance = guidance_class(name)(start=0.0)
    guider = VideoGuidance([guidance])
    guider.save_pretrained(tmp_path)
    for loaded in (VideoGuidance.from_pretrained(tmp_path), guider.new(), copy.deepcopy(guider)):
        assert [one.describe() for one in loaded.guidances] == [guidance.describe()]
        assert loaded.config == guider.config
    assert guider.new(guidance_scale=2.0).config.guidance_scale == 2.0 if not isinstance(guidance, CFG) else True


def test_a_pipeline_with_it_is_saved_and_loaded(tmp_path: Path) -> None:
    """Modular pipelines of diffusers save no guider; it is saved by itself."""
    subject = SUBJECTS["Wan"]
    modular = modular_pipeline(subject, subject.pipe(), lambda: VideoGuidance([NAG(scale=5), EMAG(scale=3)]))
    expected = sample(subject, modular)
    modular.save_pretrained(str(tmp_path), overwrite_modular_index=True)
    modular.guider.save_pretrained(tmp_path / "guider")
    loaded = BLOCKS["Wan"]().init_pipeline(str(tmp_path))
    loaded.load_components()
    loaded.update_components(guider=VideoGuidance.from_pretrained(tmp_path / "guider"))
    torch.testing.assert_close(sample(subject, loaded), expected, atol=1e-4, rtol=1e-4)


WITH_GUIDER = [case for case in CASES + MORE_CASES if case.has_guider]


@pytest.mark.parametrize("case", WITH_GUIDER, ids=name_of)
def test_standard_pipelines_with_a_guider_take_it(case: Case) -> None:
    guidances = (NAG(scale=5), EMAG(scale=3, start=0, stop=1))
    plain, pipe = case.pipe(True), case.pipe(True)
    expected = case.sample(plain, True, *with_embeddings(guidances, case.text_inputs(6)))
    pipe.guider = VideoGuidance(guidances, guidance_scale=3.0)
    with pytest.raises(ValueError, match="is guided already"):
        case.sample(pipe, True, EMAG())
    texts = case.text(case.text_inputs(2)) | case.text(case.text_inputs(6), "negative_")
    settings = dict(num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent")
    output = pipe(**texts, **case.call, **settings).frames
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    assert (expected - case.sample(plain, True)).abs().max() > 1e-3
