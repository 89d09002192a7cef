"""`Family.encode` returns what the pipeline passes to the transformer for the same text as its prompt."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.more_pipelines import MORE_CASES
from tests.helpers.tiny_encoders import ENCODERS, OTHER, PROMPT
from tests.helpers.tiny_families import Values
from tests.helpers.tiny_pipelines import CASES, Case, name_of
from vidguide.pipelines.loading.load import load
from vidguide.transformer.family import family_of

LENGTH = 128  # text length of the call: no pipeline's default, and longer than any prompt template
REPLACED = {"prompt", "negative_prompt", "max_sequence_length"}
NO_INSTRUCTION: dict[str, Values] = {  # prefixes of prompts, which negative prompts do not get
    "SanaImageToVideoPipeline": {"complex_human_instruction": None},
    "SanaVideoPipeline": {"complex_human_instruction": None},
    "SanaWMPipeline": {"chi_prompt": [""]},
}


class CalledError(Exception):
    """Raised to end the run after the calls of interest."""


@pytest.fixture(scope="module")
def encoders() -> Values:
    """Return the text encoder and tokenizer of the shipped model, for any T5 pipeline."""
    tiny = load("tiny", device="cpu")
    return {"text_encoder": tiny.text_encoder, "tokenizer": tiny.tokenizer}


def calls_of(pipe: Any, case: Case, prompt: str, number: int = 1, **call: Any) -> list[Values]:
    """Return the arguments of the first calls of the transformer.

    Args:
        pipe: pipeline of the case.
        case: settings of the call.
        prompt: prompt.
        number: number of calls to record.
        call: further arguments of the pipeline call.
    """
    calls: list[Values] = []

    def record(module: Any, args: Any, kwargs: Values) -> None:
        names = list(type(module).forward.__code__.co_varnames)[1:]
        calls.append({**dict(zip(names, args, strict=False)), **kwargs})
        if len(calls) == number:
            raise CalledError

    handle = pipe.transformer.register_forward_pre_hook(record, with_kwargs=True)
    settings = {name: value for name, value in {**case.call, **case.off}.items() if name not in REPLACED}
    settings |= NO_INSTRUCTION.get(case.pipeline, {})
    if "max_sequence_length" in inspect.signature(pipe.__call__).parameters:
        settings["max_sequence_length"] = LENGTH
    settings |= {"prompt": prompt, "generator": torch.Generator().manual_seed(0), **call}
    with pytest.raises(CalledError), torch.no_grad():
        pipe(**settings, **case.steps, output_type="latent")
    handle.remove()
    return calls


@pytest.mark.parametrize("case", CASES + MORE_CASES, ids=name_of)
def test_a_negative_prompt_is_encoded_as_a_prompt(case: Case, encoders: Values) -> None:
    pipe = case.pipe(False)
    pipe.register_modules(**ENCODERS[case.pipeline]() if case.pipeline in ENCODERS else encoders)
    family = family_of(pipe.transformer)
    if case.pipeline == "HunyuanVideoImageToVideoPipeline":  # which gives its negatives another image than its prompts
        inputs, expected = calls_of(pipe, case, OTHER, 2, negative_prompt=PROMPT, true_cfg_scale=3.0)
    else:
        (inputs,), (expected,) = (calls_of(pipe, case, words) for words in (OTHER, PROMPT))
    assert family.encode is not None
    with torch.no_grad():
        encoded = family.encode(pipe, {"prompt": [PROMPT]}, inputs)
    for name in family.text_inputs:
        value: Tensor = expected[name]
        assert not torch.equal(value, inputs[name]) or "mask" in name
        torch.testing.assert_close(encoded[name].reshape(value.shape).to(value), value)
