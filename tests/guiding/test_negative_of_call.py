"""The negative prompt of a pipeline's call, for guidances that have none."""

import copy
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from tests.helpers.more_pipelines import LONG, MORE_CASES
from tests.helpers.shipped_calls import BLUE, PROMPT, RED, guided, load_tiny, sample
from tests.helpers.tiny_encoders import gemma3_and_connectors
from tests.helpers.tiny_families import cast
from tests.helpers.tiny_pipelines import CASES, Case, name_of
from vidguide import CFG, NAG, STG, VSF, attach, attached, detach, guide
from vidguide.guidances.base import Guidance
from vidguide.tracing.run import Run


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_tiny()


@pytest.mark.parametrize("kind", [NAG, VSF])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_it_equals_the_negative_of_the_guidance(tiny: Any, kind: Any, scale: float) -> None:
    expected = guided(tiny, kind(negative_prompt=RED), PROMPT, guidance_scale=scale, negative_prompt=RED)
    assert np.array_equal(guided(tiny, kind(), PROMPT, negative_prompt=RED, guidance_scale=scale), expected)
    assert not np.array_equal(expected, sample(tiny, PROMPT, negative_prompt=RED, guidance_scale=scale))


def test_each_call_has_its_own(tiny: Any) -> None:
    with guide(tiny, NAG()) as run:
        outputs = [sample(tiny, PROMPT, negative_prompt=text) for text in (RED, BLUE, None, RED)]
    for text, output in zip((RED, BLUE, None, RED), outputs, strict=True):
        expected = sample(tiny, PROMPT) if text is None else guided(tiny, NAG(negative_prompt=text), PROMPT)
        assert np.array_equal(output, expected)
    notes = [note for trace in run.traces for note in trace.notes if not note.startswith("texts:")]
    off = "NAG: off, as the call has no negative_prompt"
    assert [note if note == off else note.split(",")[0] for note in notes] == [
        *["NAG: negative of 512 keys"] * 2,
        off,
        "NAG: negative of 512 keys",
    ]
    assert "off, as the call" in str(run.traces[2])


@pytest.mark.parametrize("blank", ["", "  ", None, [""], ["", " "]])
def test_a_blank_negative_is_none(tiny: Any, blank: Any) -> None:
    prompt = [PROMPT] * len(blank) if isinstance(blank, list) else PROMPT
    assert np.array_equal(guided(tiny, NAG(), prompt, negative_prompt=blank), sample(tiny, prompt))


def test_the_negative_of_the_guidance_has_precedence(tiny: Any) -> None:
    expected = guided(tiny, NAG(negative_prompt=RED), PROMPT)
    assert np.array_equal(guided(tiny, NAG(negative_prompt=RED), PROMPT, negative_prompt=BLUE), expected)


def test_positional_arguments(tiny: Any) -> None:
    assert np.array_equal(guided(tiny, NAG(), PROMPT, RED), guided(tiny, NAG(negative_prompt=RED), PROMPT))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("negative", [[RED, BLUE], RED])
def test_lists_and_several_videos_per_prompt(tiny: Any, negative: Any, number: int) -> None:
    call: dict[str, Any] = dict(prompt=[PROMPT, "a square moves left"], num_videos_per_prompt=number)
    expected = guided(tiny, NAG(negative_prompt=negative), **call)
    assert np.array_equal(guided(tiny, NAG(), **call, negative_prompt=negative), expected)
    assert len(expected) == 2 * number


def test_embeddings(tiny: Any) -> None:
    embeds, _ = tiny.encode_prompt(RED, do_classifier_free_guidance=False, max_sequence_length=512)
    expected = guided(tiny, NAG(negative_prompt=RED), PROMPT, max_sequence_length=512)
    guidance = NAG()
    output = guided(tiny, guidance, PROMPT, negative_prompt_embeds=embeds, max_sequence_length=512)
    assert np.array_equal(output, expected)
    with guide(tiny, guidance):  # other embeddings in the next call
        for factor in (1.0, 2.0):
            output = sample(tiny, PROMPT, negative_prompt_embeds=factor * embeds, max_sequence_length=512)
            assert np.array_equal(output, expected) == (factor == 1.0)


def test_cfg_takes_it_too(tiny: Any) -> None:
    expected = guided(tiny, CFG(scale=3, negative_prompt=RED), PROMPT)
    assert np.array_equal(guided(tiny, CFG(scale=3), PROMPT, negative_prompt=RED), expected)
    assert np.array_equal(guided(tiny, CFG(scale=3), PROMPT), guided(tiny, CFG(scale=3, negative_prompt=""), PROMPT))


def test_other_guidances_leave_it_to_the_pipeline(tiny: Any) -> None:
    stg = STG(layers=(1,))
    expected = guided(tiny, stg, PROMPT, guidance_scale=3.0, negative_prompt=RED)
    assert not np.array_equal(expected, guided(tiny, stg, PROMPT, guidance_scale=3.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (dict(negative_prompt=RED, negative_prompt_embeds=torch.zeros(1, 16, 8)), "both given"),
        (dict(negative_prompt=[RED, ""]), "blank for some of the prompts"),
        (dict(negative_prompt=[RED] * 3), "3 negative prompts for 1 prompts"),
        (dict(negative_prompt_embeds=torch.zeros(1, 16, 8)), "wide"),
    ],
)
def test_wrong_negatives_are_refused_before_the_first_step(tiny: Any, call: dict[str, Any], message: str) -> None:
    calls: list[None] = []
    handle = tiny.transformer.blocks[0].register_forward_pre_hook(lambda *_: calls.append(None))
    with pytest.raises(ValueError, match=re.escape(message)):
        guided(tiny, NAG(), PROMPT, **call)
    handle.remove()
    assert not calls


def test_without_a_text_encoder_it_is_refused_before_the_call(tiny: Any) -> None:
    encoder, tiny.text_encoder = tiny.text_encoder, None
    try:
        with pytest.raises(ValueError, match="negative_prompt='red': the WanPipeline has no text_encoder"):
            guided(tiny, NAG(), PROMPT, negative_prompt=RED)
    finally:
        tiny.text_encoder = encoder


def test_outside_of_a_call_there_is_none(tiny: Any) -> None:
    inputs = dict(hidden_states=torch.randn(1, 16, 3, 8, 8), timestep=torch.tensor([500.0]))
    inputs["encoder_hidden_states"] = torch.randn(1, 16, tiny.transformer.config.text_dim)
    inputs["hidden_states"] = torch.randn(1, tiny.transformer.config.in_channels, 3, 8, 8)
    with guide(tiny, NAG()), pytest.raises(ValueError, match="here or in the call of a pipeline"):
        tiny.transformer(**inputs)


def test_a_scheduler_replaced_inside_the_block_counts_the_steps(tiny: Any) -> None:
    nag, original = NAG(negative_prompt=RED, stop=0.5), tiny.scheduler
    try:
        with guide(tiny, nag) as run:
            tiny.scheduler = UniPCMultistepScheduler.from_config(original.config)
            within = sample(tiny, PROMPT, num_inference_steps=4)
            assert run.trace.steps == 4
            assert {record.step for record in run.trace} == {0, 1}
        assert type(tiny.scheduler) is UniPCMultistepScheduler
        assert np.array_equal(within, guided(tiny, nag, PROMPT, num_inference_steps=4))
        assert type(original) is not type(tiny.scheduler)
        assert "_vidguide_run" not in vars(original)
    finally:
        tiny.scheduler = original


def test_a_transformer_replaced_inside_the_block_is_refused(tiny: Any) -> None:
    original = tiny.transformer
    other = copy.deepcopy(original)
    try:
        with guide(tiny, NAG(negative_prompt=RED)):
            tiny.transformer = other
            with pytest.raises(ValueError, match="was replaced within guide"):
                sample(tiny, PROMPT)
    finally:
        tiny.transformer = original


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", CASES + MORE_CASES, ids=name_of)
def test_embeddings_of_the_call_in_every_family(case: Case) -> None:
    """Bitwise equal to the same embeddings given to the guidance, with the pipeline's own guidance off.

    Also of attached guidances.
    """
    pipe = case.pipe(False)
    outputs = []
    for in_call, attaches in ((True, False), (False, False), (True, True)):
        negative = case.model.text(1, case.length, 6)
        guidance = NAG() if in_call else NAG(negative_prompt_embeds=case.to_transformer(negative))
        texts = case.text(case.to_transformer(case.model.text(1, case.length, 2)))
        if in_call or case.takes_negative(cfg_on=False):
            texts |= case.text(case.to_transformer(negative), "negative_")
        if attaches:
            attach(pipe, guidance)
        with nullcontext() if attaches else guide(pipe, guidance) as run:
            output = pipe(
                **{**case.call, **case.off, **cast(texts, pipe.transformer.dtype)},
                **case.steps,
                generator=torch.Generator().manual_seed(0),
                output_type="latent",
            ).frames
        assert len((run or attached(pipe)).trace)
        outputs.append(output[-1] if isinstance(output, list) else output)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def words_only(pipe: Any, case: Case, *guidances: Guidance, **call: Any) -> tuple[Tensor, Run]:
    """Return the latents of a call with a prompt in words, and the run."""
    settings = {**case.call, **case.steps, "prompt": PROMPT, "generator": torch.Generator().manual_seed(0), **call}
    with guide(pipe, *guidances) as run:
        return pipe(**settings, output_type="latent").frames, run


DISTILLED = [case for case in MORE_CASES if not case.has_cfg]


def with_encoder(case: Case) -> Case:
    """Return the case with a text encoder."""
    return replace(case, parts=lambda: {**case.parts(), **gemma3_and_connectors()})


WORDS = [with_encoder(case) for case in DISTILLED]
WORDS += [LONG] if hasattr(diffusers, LONG.pipeline) else []


@pytest.mark.parametrize("case", WORDS, ids=name_of)
def test_words_of_the_call_of_ltx_pipelines(case: Case) -> None:
    """Those of DFR, which are distilled, have no argument for a negative; that of long videos takes no embeddings."""
    pipe = case.pipe(False)
    expected, _ = words_only(pipe, case, NAG(negative_prompt=BLUE))
    output, _ = words_only(pipe, case, NAG(), negative_prompt=BLUE)
    unguided, _ = words_only(pipe, case)
    assert torch.equal(output, expected)
    assert (output - unguided).abs().max() > 1e-3
    attach(pipe, NAG())
    settings = {**case.call, **case.steps, "prompt": PROMPT, "generator": torch.Generator().manual_seed(0)}
    assert torch.equal(pipe(**settings, negative_prompt=BLUE, output_type="latent").frames, expected)
    if not case.has_cfg:
        detach(pipe)
        with pytest.raises(TypeError, match="negative_prompt"):
            pipe(**settings, negative_prompt=BLUE)


@pytest.mark.parametrize("case", WORDS[1:], ids=name_of)
def test_the_end_of_an_ancestral_schedule_is_no_step(case: Case) -> None:
    """LTXEulerAncestralRFScheduler has a timestep more than steps."""
    pipe = case.pipe(False)
    sigmas = [0.9, 0.7, 0.4, 0.2] + [0.0] * case.steps["sigmas"].count(0)
    _, run = words_only(pipe, case, NAG(negative_prompt=BLUE, stop=0.5), sigmas=sigmas)
    assert [trace.steps for trace in run.traces] == [4, 4]
    assert [{record.step for record in trace} for trace in run.traces] == [{0, 1}, {0, 1}]


@pytest.mark.skipif(not hasattr(diffusers, LONG.pipeline), reason="not in this release")
def test_only_the_prompts_of_a_long_video_are_guided() -> None:
    pipe, call = LONG.pipe(True), {"negative_prompt": BLUE, "guidance_scale": 3.0}
    unguided, _ = words_only(pipe, LONG, **call)
    prompt_as_negative, _ = words_only(pipe, LONG, NAG(negative_prompt=PROMPT), **call)
    guided, _ = words_only(pipe, LONG, NAG(negative_prompt=RED), **call)
    torch.testing.assert_close(prompt_as_negative, unguided, atol=1e-4, rtol=1e-3)
    assert (guided - unguided).abs().max() > 1e-3
