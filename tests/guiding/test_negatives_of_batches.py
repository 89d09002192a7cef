"""Negatives are paired with prompts one to one, and are computed again when the LoRAs of the transformer change."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.shipped_calls import BLUE, PROMPT, RED, guided, load_tiny, sample
from vidguide import EMAG, NAG, VSF, guide
from vidguide.guidances.base import Guidance

PROMPTS = [PROMPT, "a square", "a triangle", "a red circle"]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_tiny()


@pytest.mark.parametrize("kind", [NAG, VSF])
@pytest.mark.parametrize("of_call", [True, False])
def test_two_negatives_for_four_prompts_are_refused(tiny: Any, kind: Any, of_call: bool) -> None:
    negatives = [RED, BLUE]
    guidance = kind() if of_call else kind(negative_prompt=negatives)
    arguments = {"negative_prompt": negatives} if of_call else {}
    message = re.escape(f"{kind.__name__}: 2 negative prompts for 4 prompts; give one for all, or one for each")
    with pytest.raises(ValueError, match=message):
        guided(tiny, guidance, PROMPTS, **arguments)


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)])
def test_one_negative_or_one_for_each_prompt_or_clip_is_taken(tiny: Any, rows: int) -> None:
    embeds, _ = tiny.encode_prompt([RED, BLUE, "green", "small"], False, max_sequence_length=512)
    given = embeds[:1] if rows == 1 else embeds.repeat_interleave(rows // 4, 0)
    output = guided(tiny, NAG(negative_prompt_embeds=given), PROMPTS, num_videos_per_prompt=2)
    assert len(output) == 8
    texts = [RED] if rows == 1 else [RED, BLUE, "green", "small"]
    expected = guided(tiny, NAG(negative_prompt=texts), PROMPTS, num_videos_per_prompt=2)
    np.testing.assert_allclose(output, expected, atol=1e-4)  # texts encoded in other batches are rounded otherwise


def test_two_negative_embeddings_for_four_prompts_are_refused(tiny: Any) -> None:
    embeds, _ = tiny.encode_prompt([RED, BLUE], do_classifier_free_guidance=False)
    with pytest.raises(ValueError, match="NAG: 2 negative prompts for 4 prompts"):
        guided(tiny, NAG(negative_prompt_embeds=embeds), PROMPTS)


def test_a_nested_guide_is_refused_with_the_cure_for_it(tiny: Any) -> None:
    message = "WanTransformer3DModel is guided already: list all guidances in one guide"
    with guide(tiny, NAG(negative_prompt=RED)), pytest.raises(ValueError, match=message), guide(tiny, EMAG()):
        pass


def load_lora(pipe: Any, seed: int) -> None:
    """Add a LoRA of random weights to the attentions of the transformer."""
    from peft import LoraConfig

    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_k", "to_v"], init_lora_weights=False)
    torch.manual_seed(seed)
    pipe.transformer.add_adapter(config, adapter_name=f"style_{seed}")


class Changes:
    """Changes of the LoRAs between two steps, by name."""

    @staticmethod
    def strength(pipe: Any) -> None:
        pipe.transformer.set_adapters(["style_0"], [0.25])

    @staticmethod
    def adapter(pipe: Any) -> None:
        pipe.transformer.set_adapters(["style_1"], [1.0])

    @staticmethod
    def disabled(pipe: Any) -> None:
        pipe.transformer.disable_lora()

    @staticmethod
    def fused(pipe: Any) -> None:
        pipe.transformer.fuse_lora(lora_scale=0.5)

    @staticmethod
    def loaded(pipe: Any) -> None:
        load_lora(pipe, 2)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
@pytest.mark.parametrize("change", ["strength", "adapter", "disabled", "fused", "loaded"])
@pytest.mark.parametrize("kind", [NAG, VSF])
def test_the_negative_is_computed_again_when_a_lora_changes_within_a_run(change: str, kind: Any) -> None:
    pytest.importorskip("peft")
    pipe = load_tiny()
    for seed in (1, 0):
        load_lora(pipe, seed)
    text, _ = pipe.encode_prompt([PROMPT], do_classifier_free_guidance=False)
    negative, _ = pipe.encode_prompt([RED], do_classifier_free_guidance=False)
    latents = torch.randn(1, pipe.transformer.config.in_channels, 3, 8, 8)
    guidance: Guidance = kind(negative_prompt_embeds=negative)

    def call(step: int) -> Tensor:
        inputs = dict(hidden_states=latents, timestep=pipe.scheduler.timesteps[step][None], encoder_hidden_states=text)
        output: Tensor = pipe.transformer(**inputs, return_dict=False)[0]
        return output

    with torch.no_grad():
        pipe.scheduler.set_timesteps(4)
        with guide(pipe.transformer, guidance, scheduler=pipe.scheduler):
            pipe.scheduler.set_timesteps(4)
            first = call(0)
            pipe.scheduler.step(first, pipe.scheduler.timesteps[0], latents)
            getattr(Changes, change)(pipe)
            second = call(1)
        with guide(pipe.transformer, guidance, scheduler=pipe.scheduler):
            pipe.scheduler.set_timesteps(4)
            fresh = call(1)
    assert torch.equal(second, fresh)
    assert not torch.equal(first, fresh)


def test_the_negative_is_computed_once_where_no_lora_changes(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    count, plan = [], NAG.attention_plan

    def counted(self: NAG, call: Any) -> Any:
        count.append(1)
        return plan(self, call)

    monkeypatch.setattr(NAG, "attention_plan", counted)
    guided(tiny, NAG(negative_prompt=RED), PROMPT)
    assert len(count) == 1
    assert sample(tiny, PROMPT).size
