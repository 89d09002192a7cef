"""Modular pipelines: texts are encoded by the pipeline's own block, and the call's negative prompt is used."""

import copy
import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers.modular_pipelines.echo")  # the latest family of 0.42

from diffusers import ClassifierFreeGuidance

from tests.helpers.modular_pipelines import CASES, NEGATIVE, PROMPT, REFUSED, ModularCase
from tests.helpers.tiny_families import noise
from tests.helpers.tiny_pipelines import AveragingVAE, picture
from vidguide import EMAG, NAG, PAG, STG, attach, attached, detach, guide
from vidguide.attention.sites import fixed_self_attention
from vidguide.guidances.base import Guidance
from vidguide.pipelines.guiders import VideoGuidance
from vidguide.transformer.family import family_of, refused

TEXT: dict[str, Any] = dict(prompt=PROMPT, negative_prompt=NEGATIVE)
BY_NAME = {case.name: case for case in CASES}
CASE = BY_NAME["Wan"]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def nag(**parameters: Any) -> NAG:
    return NAG(**{"scale": 20, "tau": 10, "alpha": 1, **parameters})


def sample(case: ModularCase, pipe: Any, *guidances: Guidance, **call: Any) -> Tensor:
    with guide(pipe, *guidances):
        return case.sample(pipe, **call)


def plain_call(case: ModularCase) -> dict[str, Any]:
    """Return a call's texts, without the negative where the pipeline has no such input."""
    return TEXT if case.negatives else {"prompt": PROMPT}


def encoded_negative(case: ModularCase, pipe: Any) -> dict[str, Any]:
    """Return the text inputs of the negative as the pipeline itself encodes it."""
    call = TEXT if case.negatives else {"prompt": NEGATIVE}
    values, fields = case.state(pipe, **call).values, family_of(pipe.transformer).state_fields
    return {name: values[case.negatives + field] for name, field in fields.items()}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_negative_of_the_call(case: ModularCase) -> None:
    """Equal to the text of the guidance, and to what the pipeline itself encodes for its unconditional call."""
    pipe = case.pipe()
    plain = case.sample(pipe, **plain_call(case))
    with guide(pipe, nag()) as run:
        of_call = case.sample(pipe, **TEXT)
    assert all(len(trace) for trace in run.traces)
    assert run.traces[0].steps == case.steps
    assert torch.equal(of_call, sample(case, pipe, nag(negative_prompt=NEGATIVE), **plain_call(case)))
    encoded = nag(negative_prompt_embeds=encoded_negative(case, pipe))
    torch.testing.assert_close(of_call, sample(case, pipe, encoded, **plain_call(case)), rtol=1e-4, atol=1e-5)
    assert (of_call - plain).abs().max() > 1e-3
    attach(pipe, nag())
    assert torch.equal(case.sample(pipe, **TEXT), of_call)
    assert attached(pipe).traces[0].steps == case.steps
    detach(pipe)
    assert torch.equal(case.sample(pipe, **plain_call(case)), plain)


@pytest.mark.parametrize("name", REFUSED)
def test_pipelines_on_other_transformers_are_refused(name: str) -> None:
    pipe = getattr(diffusers, f"{name}ModularPipeline")()
    kind = pipe._component_specs["transformer"].type_hint
    pipe.transformer = kind.__new__(kind)
    nn.Module.__init__(pipe.transformer)
    with pytest.raises(LookupError, match="is known and not supported") as caught, guide(pipe, NAG()):
        pass
    assert refused()[kind.__name__] in str(caught.value)


def test_all_modular_video_pipelines_are_covered() -> None:
    """Those of diffusers whose blocks decode videos."""
    names = [name for name in dir(diffusers) if name.endswith("ModularPipeline") and name != "ModularPipeline"]
    made = {name: {one.name for one in getattr(diffusers, name)()._blocks.intermediate_outputs} for name in names}
    videos = {name.removesuffix("ModularPipeline") for name, outputs in made.items() if "videos" in outputs}
    assert videos == {*BY_NAME, *REFUSED}


WITH_GUIDER = [case for case in CASES if case.takes_guider]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", WITH_GUIDER, ids=lambda case: case.name)
def test_guidances_as_its_guider(case: ModularCase) -> None:
    """Equal to `guide` with diffusers' guider for classifier-free guidance."""
    pipe = case.pipe()
    names = [name for name in ("guider", "guider_2") if name in pipe.components]
    fixed = fixed_self_attention(family_of(pipe.transformer))
    guidances = (nag(), *(() if fixed else (EMAG(scale=3, start=0, stop=1), PAG(layers=(1,)))))
    pipe.update_components(**{name: ClassifierFreeGuidance(guidance_scale=3.0) for name in names})
    plain = case.sample(pipe, **TEXT)
    expected = sample(case, pipe, *guidances, **TEXT)
    assert (expected - plain).abs().max() > 1e-3
    if len(names) == 1:  # two guiders have an average each
        pipe.update_components(guider=VideoGuidance(guidances, guidance_scale=3.0))
        torch.testing.assert_close(case.sample(pipe, **TEXT), expected, rtol=1e-4, atol=1e-4)
    pipe.update_components(**{name: VideoGuidance([nag()], guidance_scale=3.0) for name in names})
    of_guider = case.sample(pipe, **TEXT)
    pipe.update_components(**{name: ClassifierFreeGuidance(guidance_scale=3.0) for name in names})
    torch.testing.assert_close(of_guider, sample(case, pipe, nag(), **TEXT), rtol=1e-4, atol=1e-4)
    assert torch.equal(case.sample(pipe, **TEXT), plain)


def wan_pipelines(scale: float) -> tuple[Any, Any]:
    """Return the modular and the standard pipeline of Wan with the same components."""
    modular = CASE.pipe()
    modular.update_components(guider=TwoConditions(guidance_scale=scale))
    names = ("transformer", "scheduler", "text_encoder", "tokenizer")
    parts = {name: getattr(modular, name) for name in names}
    standard = diffusers.WanPipeline(**parts, vae=AveragingVAE(4))
    standard.set_progress_bar_config(disable=True)
    return modular, standard


class TwoConditions(ClassifierFreeGuidance):
    """Guider that always has two conditions: Wan's text encoder in diffusers 0.42 fails with one."""

    @property
    def num_conditions(self) -> int:
        return 2

    def __call__(self, data: list[Any]) -> Any:
        return self.forward(**{one[self._identifier_key]: one.noise_pred for one in data})


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("guidance", [NAG(), NAG(negative_prompt=NEGATIVE), EMAG(scale=3, start=0, stop=1)])
def test_wan_equals_the_standard_pipeline(scale: float, guidance: Guidance) -> None:
    modular, standard = wan_pipelines(scale)
    call = {**CASE.call, **TEXT, "num_inference_steps": 2}
    with guide(standard, guidance) as run:
        expected = standard(**call, guidance_scale=scale, output_type="latent").frames
    with guide(modular, guidance) as modular_run:
        assert torch.equal(CASE.sample(modular, **TEXT), expected)
    assert [*run.trace] == [*modular_run.trace]
    assert len(run.trace) or run.trace.choices


OWN_GUIDANCE = {"off": (0.0, 1.0), "on": (1.0, 2.0)}  # scales of LTX-2's skipped blocks and of one modality by itself
ON_LTX2: dict[str, tuple[Guidance, ...]] = {
    "none": (),
    "NAG": (nag(),),
    "EMAG": (EMAG(scale=3, decay=0.5, select=(1,), start=0, stop=1),),
    "PAG": (PAG(layers=(1,)),),
    "NAG, EMAG and STG": (nag(), EMAG(scale=3, decay=0.5, start=0, stop=1), STG(layers=(1,), mode="attention")),
}


def ltx2_pipelines(scale: float, stg: float, modality: float) -> tuple[Any, Any, dict[str, Any]]:
    """Return the modular and the standard pipeline of LTX-2 in float64, and the standard one's arguments."""
    modular = BY_NAME["LTX2"].pipe()
    for part in (modular.transformer, modular.text_encoder, modular.connectors):
        part.double()
    scales = dict(guidance_scale=scale, stg_scale=stg, modality_scale=modality, spatio_temporal_guidance_blocks=[1])
    modular.update_components(**{name: diffusers.LTX2Guidance(**scales) for name in ("guider", "audio_guider")})
    names = ("transformer", "scheduler", "text_encoder", "tokenizer", "connectors", "audio_vae")
    parts = {**{name: getattr(modular, name) for name in names}, "vae": AveragingVAE(4, 8, 32), "vocoder": None}
    standard = diffusers.LTX2Pipeline(**parts)
    standard.set_progress_bar_config(disable=True)
    call = dict(scales, guidance_rescale=0.0, audio_guidance_scale=scale, audio_stg_scale=stg)
    return modular, standard, dict(call, audio_modality_scale=modality, audio_guidance_rescale=0.0)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("own", OWN_GUIDANCE)
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", ON_LTX2)
def test_ltx2_equals_the_standard_pipeline(name: str, scale: float, own: str) -> None:
    """Up to four calls a step, of which three are conditional; the standard pipeline makes two of them in one batch."""
    case = BY_NAME["LTX2"]
    modular, standard, settings = ltx2_pipelines(scale, *OWN_GUIDANCE[own])
    with guide(standard, *ON_LTX2[name]) as run:
        generator = torch.Generator().manual_seed(0)
        call = {**case.call, **TEXT, **settings, "num_inference_steps": 2, "generator": generator}
        expected = standard(**call, output_type="latent").frames
    with guide(modular, *ON_LTX2[name]) as modular_run:
        latents = case.sample(modular, **TEXT)
    expected = expected.flatten(2).transpose(1, 2) if expected.ndim == 5 else expected
    torch.testing.assert_close(latents.double(), expected.double(), rtol=1e-5, atol=1e-6)
    assert len(modular_run.trace) == len(run.trace)
    passes = 2 * sum(guidance.extra_pass for guidance in ON_LTX2[name])
    assert len(modular_run.trace.choices) == len(run.trace.choices) == passes


def test_the_negative_in_a_state() -> None:
    pipe = CASE.pipe()
    expected = sample(CASE, pipe, nag(), **TEXT)
    state = CASE.state(pipe, **TEXT)
    assert torch.equal(sample(CASE, pipe, nag(), state=state, prompt=PROMPT), expected)
    other = sample(CASE, pipe, nag(), prompt=PROMPT, negative_prompt="moves")
    assert torch.equal(sample(CASE, pipe, nag(), state=state, prompt=PROMPT, negative_prompt="moves"), other)
    assert not torch.equal(other, expected)
    without = case_without_text(pipe)  # takes the encoded negative of the state
    assert torch.equal(sample(CASE, without, nag(), state=state), expected)
    none = dict(state=state, prompt=PROMPT, negative_prompt="")
    assert torch.equal(sample(CASE, pipe, nag(), **none), CASE.sample(pipe, **none))


def case_without_text(pipe: Any) -> Any:
    """Return a pipeline of the denoising block of another, with its components."""
    denoise = pipe._blocks.sub_blocks["denoise"].init_pipeline()
    denoise.update_components(**{name: getattr(pipe, name) for name in ("transformer", "scheduler", "guider")})
    return denoise


def test_an_attached_pipeline_is_copied_and_saved(tmp_path: Path) -> None:
    pipe = CASE.pipe()
    attach(pipe, nag())
    expected = CASE.sample(pipe, **TEXT)
    for other in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert torch.equal(CASE.sample(other, **TEXT), expected)
    pipe.save_pretrained(str(tmp_path), overwrite_modular_index=True)
    assert json.loads((tmp_path / "modular_model_index.json").read_text())["_class_name"] == CASE.pipeline


@pytest.mark.parametrize("name", ["Echo", "MiniMaxH3"])
def test_a_negative_without_an_input_is_not_passed_on(name: str) -> None:
    """The pipeline would warn about an unexpected input."""
    case = BY_NAME[name]
    pipe = case.pipe()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Unexpected input")
        sample(case, pipe, nag(), **TEXT)
        with pytest.raises(UserWarning, match="Unexpected input"):
            sample(case, pipe, PAG(), **TEXT)


def test_a_negative_per_prompt() -> None:
    case = BY_NAME["Echo"]
    pipe = case.pipe()
    both = sample(case, pipe, nag(), prompt=[PROMPT, NEGATIVE], negative_prompt=[NEGATIVE, PROMPT])
    same = sample(case, pipe, nag(), prompt=[PROMPT, NEGATIVE], negative_prompt=NEGATIVE)
    torch.testing.assert_close(both[0], same[0])
    assert (both[1] - same[1]).abs().max() > 1e-3


def test_embeddings_of_the_call_are_those_of_the_guidance() -> None:
    pipe = CASE.pipe()
    values = CASE.state(pipe, **TEXT).values
    denoise = case_without_text(pipe)
    embeds = {name: values[name] for name in ("prompt_embeds", "negative_prompt_embeds")}
    expected = sample(CASE, pipe, nag(), **TEXT)
    assert torch.equal(sample(CASE, denoise, nag(), prompt=None, **embeds), expected)  # which the guider reads too


def test_what_cannot_be_encoded_is_refused() -> None:
    pipe = CASE.pipe()
    with pytest.raises(ValueError, match="must have at most 16 tokens"):
        sample(CASE, pipe, nag(), prompt=PROMPT, negative_prompt="blue " * 20)
    denoise = case_without_text(pipe)
    with pytest.raises(ValueError, match="the WanModularPipeline has no text_encoder block"):
        sample(CASE, denoise, nag(negative_prompt="red"))
    pipe.text_encoder = None
    with pytest.raises(ValueError, match="the WanModularPipeline has no text_encoder; load it"):
        sample(CASE, pipe, nag(), **TEXT)
    pipe, case = BY_NAME["LTX2"].pipe(), BY_NAME["LTX2"]
    with pytest.raises(
        ValueError, match="negative_prompt_embeds: LTX-2 in a modular pipeline needs negative_connector"
    ):
        sample(case, pipe, nag(), prompt=PROMPT, negative_prompt_embeds=torch.zeros(1, 16, 16))


def keyframe_case() -> ModularCase:
    """Return MiniMax-H3 from a first frame, whose latents are given."""
    case = BY_NAME["MiniMaxH3"]
    call = {**case.call, "image": picture(96, 64), "condition_latents": [noise(1, 24, 1, 4, 6, seed=5)]}
    return replace(case, blocks=("before_encode", "text_encoder", "denoise"), call=call)


def test_a_negative_in_words_is_encoded_with_the_pictures_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    case = keyframe_case()
    pipe = case.pipe()
    plain = case.sample(pipe)
    state = case.state(pipe, prompt=NEGATIVE)
    tags = state.get("text_token_tags")
    assert set(tags.tolist()) == {0, 1}  # rows of the picture, and of text
    embeds = {"encoder_hidden_states": state.get("prompt_embeds"), "text_token_tags": tags}
    with guide(pipe, NAG(negative_prompt_embeds=embeds)):
        expected = case.sample(pipe)
    encoded: list[Any] = []
    block = type(pipe._blocks.sub_blocks["text_encoder"])
    original = block.__call__

    def counted(self: Any, components: Any, state: Any) -> Any:
        encoded.append(state.get("prompt"))
        return original(self, components, state)

    monkeypatch.setattr(block, "__call__", counted)
    with guide(pipe, NAG(negative_prompt=NEGATIVE)):
        assert torch.equal(case.sample(pipe), expected)
    assert encoded.count(NEGATIVE) == 1  # not at each step
    with guide(pipe, NAG()):
        assert torch.equal(case.sample(pipe, negative_prompt=NEGATIVE), expected)
    assert not torch.equal(expected, plain)
