"""A negative in words gets exactly what the pipeline would pass to the transformer for it as a prompt."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.tiny_encoders import ENCODERS, OTHER, PROMPT
from tests.helpers.tiny_families import Values
from tests.helpers.tiny_pipelines import CASES, Case, name_of
from vidguide.pipelines.loading.load import load
from vidguide.transformer.family import family_of

LENGTH = 128  # of the text that the pipeline is asked for, other than any default; longer than any template
NOT_OURS = {"prompt", "negative_prompt", "max_sequence_length"}
NO_INSTRUCTION: dict[str, Values] = {  # which goes before prompts, and before no negative
    "SanaVideoPipeline": {"complex_human_instruction": None},
    "SanaWMPipeline": {"chi_prompt": [""]},
}


class SeenError(Exception):
    """The transformer was called."""


@pytest.fixture(scope="module")
def encoders() -> Values:
    """The shipped model's text encoder and tokenizer, which serve any T5 pipeline."""
    tiny = load("tiny", device="cpu")
    return {"text_encoder": tiny.text_encoder, "tokenizer": tiny.tokenizer}


def calls_of(pipe: Any, case: Case, prompt: str, number: int = 1, **call: Any) -> list[Values]:
    """The arguments of the first calls of the transformer."""
    seen: list[Values] = []

    def keep(module: Any, args: Any, kwargs: Values) -> None:
        names = list(type(module).forward.__code__.co_varnames)[1:]
        seen.append({**dict(zip(names, args, strict=False)), **kwargs})
        if len(seen) == number:
            raise SeenError

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    settings = {name: value for name, value in {**case.call, **case.off}.items() if name not in NOT_OURS}
    settings |= NO_INSTRUCTION.get(case.pipeline, {})
    if "max_sequence_length" in inspect.signature(pipe.__call__).parameters:
        settings["max_sequence_length"] = LENGTH
    settings |= {"prompt": prompt, "generator": torch.Generator().manual_seed(0), **call}
    with pytest.raises(SeenError), torch.no_grad():
        pipe(**settings, num_inference_steps=2, output_type="latent")
    handle.remove()
    return seen


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_negative_is_encoded_as_a_prompt_is(case: Case, encoders: Values) -> None:
    pipe = case.pipe(False)
    pipe.register_modules(**ENCODERS[case.pipeline]() if case.pipeline in ENCODERS else encoders)
    family = family_of(pipe.transformer)
    if case.pipeline == "HunyuanVideoImageToVideoPipeline":  # which gives its negatives another image than its prompts
        inputs, expected = calls_of(pipe, case, OTHER, 2, negative_prompt=PROMPT, true_cfg_scale=3.0)
    else:
        (inputs,), (expected,) = (calls_of(pipe, case, words) for words in (OTHER, PROMPT))
    with torch.no_grad():
        encoded = family.encode(pipe, [PROMPT], inputs)
    for name in family.text_inputs:
        value: Tensor = expected[name]
        assert not torch.equal(value, inputs[name]) or "mask" in name
        torch.testing.assert_close(encoded[name].reshape(value.shape).to(value), value)
