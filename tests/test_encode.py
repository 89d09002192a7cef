"""A negative in words gets exactly what the pipeline would pass to the transformer for it as a prompt."""

import inspect
from typing import Any

import diffusers
import pytest
import torch
from test_family_pipelines import CASES, LATENT, Case
from tiny_encoders import ENCODERS, OTHER, PROMPT
from tiny_families import Values
from torch import Tensor

from vidguide.family import family_of
from vidguide.pipelines.load import load

CALLS = [case for case in CASES if case.pipeline.startswith(("LTXP", "CogVideoX", "Mochi", "Latte", "Allegro", "Sana"))]
CALLS += [case for case in CASES if case.pipeline.startswith(("Wan", "SkyReels", "Cosmos"))]
CALLS += [case for case in CASES if case.pipeline in ENCODERS]
if hasattr(diffusers, "AnyFlowPipeline"):
    CALLS += [Case("AnyFlowPipeline", "AnyFlowTransformer3DModel", {**LATENT, "num_frames": 5})]
if hasattr(diffusers, "Kandinsky6TI2VAPipeline"):
    silent = {**LATENT, "num_frames": 5, "sample_audio": False}
    CALLS += [Case("Kandinsky6TI2VAPipeline", "Kandinsky6Transformer3DModel", silent)]
LENGTH = 128  # of the text that the pipeline is asked for, other than any default; longer than any template
NOT_OURS = {"negative_prompt", "max_sequence_length"}


class SeenError(Exception):
    """The transformer was called."""


@pytest.fixture(scope="module")
def encoders() -> Values:
    """The shipped model's text encoder and tokenizer, which serve any T5 pipeline."""
    tiny = load("tiny", device="cpu")
    return {"text_encoder": tiny.text_encoder, "tokenizer": tiny.tokenizer}


def call_of(pipe: Any, case: Case, prompt: str) -> Values:
    """The arguments of the first call of the transformer, without guidance."""
    seen: list[Values] = []

    def keep(module: Any, args: Any, kwargs: Values) -> None:
        names = list(type(module).forward.__code__.co_varnames)[1:]
        seen.append({**dict(zip(names, args, strict=False)), **kwargs})
        raise SeenError

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    settings = {name: value for name, value in {**case.call, **case.off}.items() if name not in NOT_OURS}
    if case.pipeline == "SanaVideoPipeline":
        settings["complex_human_instruction"] = None  # goes before prompts, and before no negative
    if "max_sequence_length" in inspect.signature(pipe.__call__).parameters:
        settings["max_sequence_length"] = LENGTH
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(SeenError), torch.no_grad():
        pipe(prompt, **settings, num_inference_steps=2, generator=generator, output_type="latent")
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("case", CALLS, ids=lambda case: f"{case.pipeline}-{case.tiny.split('/')[-1]}")
def test_a_negative_is_encoded_as_a_prompt_is(case: Case, encoders: Values) -> None:
    pipe = case.pipe(False)
    pipe.register_modules(**ENCODERS[case.pipeline]() if case.pipeline in ENCODERS else encoders)
    family = family_of(pipe.transformer)
    as_prompt = call_of(pipe, case, PROMPT)
    inputs = call_of(pipe, case, OTHER)
    with torch.no_grad():
        encoded = family.encode(pipe, [PROMPT], inputs)
    for name in family.text_inputs:
        value: Tensor = as_prompt[name]
        assert not torch.equal(value, inputs[name]) or "mask" in name
        torch.testing.assert_close(encoded[name].reshape(value.shape).to(value), value)
