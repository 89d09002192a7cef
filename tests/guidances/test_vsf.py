"""VSF: its edits against the plain equation, and a guided model against processors with the equation."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.joint_attention import (
    BATCH,
    NEGATIVE,
    PROMPT,
    VIDEO,
    kernel,
    key_mask,
    sequence,
    softmax_attention,
    stream_of,
    tensors,
)
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import NAG, VSF, guide
from vidguide.edits.vsf_attention import JointAttentionVSF, SplitAttentionVSF
from vidguide.functional.vsf import vsf
from vidguide.guidances.vsf import zero_rows
from vidguide.transformer.family import Joint

STRENGTH = VSF(negative_prompt="blurry", scale=1.5, offset=0.3)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def plain_vsf(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, negative: Tensor) -> Tensor:
    """Return the equation for one sample's `(L, H, D)` tensors, query by query; `keys` and `negative` are key
    indices."""
    output = torch.zeros_like(query)
    for token in range(query.shape[0]):
        for head in range(query.shape[1]):
            scores = [query[token, head] @ key[i, head] / query.shape[-1] ** 0.5 for i in keys]
            scores += [query[token, head] @ key[i, head] / query.shape[-1] ** 0.5 - STRENGTH.offset for i in negative]
            values = [value[i, head] for i in keys] + [-STRENGTH.scale * value[i, head] for i in negative]
            output[token, head] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return output


@pytest.mark.parametrize("mask", ["none", "keys", "square", "additive"])
@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("layout", ["BLHD", "BHLD"])
def test_joint_attention_equals_the_plain_equation(layout: str, text_first: bool, mask: str) -> None:
    video, prompt, negative = parts = sequence(text_first)
    valid = key_mask(parts) if mask != "none" else torch.ones(BATCH, VIDEO + PROMPT + NEGATIVE, dtype=torch.bool)
    masks = {"none": None, "keys": valid[:, None, None], "additive": (~valid[:, None, None]).double() * -1e9}
    masks["square"] = valid[:, None, None] & valid[:, None, :, None]
    query, key, value = tensors(torch.float64)
    edit = JointAttentionVSF(STRENGTH, stream_of(Joint(text_first=text_first), torch.float64), True)
    call = kernel(masks[mask], layout)
    output = edit(call, query, key, value)
    for i in range(BATCH):
        expected = torch.empty_like(query[i])
        for text in (prompt, negative):
            keys = torch.cat([video, text])
            expected[text] = softmax_attention(query[i, text], key[i], value[i], keys[valid[i, keys]])
        keys, negative_keys = torch.cat([video, prompt]), negative[valid[i, negative]]
        expected[video] = plain_vsf(query[i, video], key[i], value[i], keys[valid[i, keys]], negative_keys)
        tokens = valid[i] if mask == "square" else slice(None)
        torch.testing.assert_close(output[i][tokens], expected[tokens], atol=1e-9, rtol=0)
    assert call.measured is not None
    assert 0.1 < call.measured[1] / call.measured[2] < 10


@pytest.mark.parametrize("guides", [False, True])
def test_unguided_layers_and_uncond_samples_do_not_attend_to_the_negative(guides: bool) -> None:
    query, key, value = tensors(torch.float64)
    edit = JointAttentionVSF(STRENGTH, stream_of(Joint(), torch.float64), guides)
    output = edit(kernel(None, "BLHD", halved=True), query, key, value)
    keys = torch.arange(VIDEO + PROMPT)
    for i in range(1 if guides else BATCH):
        torch.testing.assert_close(output[i, :VIDEO], softmax_attention(query[i, :VIDEO], key[i], value[i], keys))
    reference = JointAttentionVSF(STRENGTH, stream_of(Joint(), torch.float64), guides)
    torch.testing.assert_close(output[1:], reference(kernel(None, "BLHD"), query, key, value)[1:])


@pytest.mark.parametrize("image", [0, 2])
def test_split_text_attention_equals_the_plain_equation(image: int) -> None:
    """The prompt's leading image tokens are dropped by the block; those of the negative are included."""
    query, key, value = (tensor[:, : PROMPT + NEGATIVE - image] for tensor in tensors(torch.float64))
    edit = SplitAttentionVSF(STRENGTH, stream_of(Joint(), torch.float64), True)
    output = edit(kernel(None, "BLHD"), query, key, value)
    keys, negative = torch.arange(PROMPT - image), torch.arange(PROMPT, PROMPT + NEGATIVE - image)
    for i in range(BATCH):
        expected = plain_vsf(query[i], key[i], value[i], keys, negative)
        torch.testing.assert_close(output[i], expected, atol=1e-9, rtol=0)


class PlainVSFProcessor:
    """Wan's cross-attention with plain VSF."""

    def __init__(self, negative: Tensor) -> None:
        self.negative = negative

    def __call__(self, attn: Any, hidden_states: Any, text: Any, mask: Any = None, rotary: Any = None) -> Tensor:
        both = torch.cat([text, self.negative.expand(text.shape[0], -1, -1)], 1)
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(both))
        query, key, value = (t.unflatten(2, (attn.heads, -1)) for t in (query, key, attn.to_v(both)))
        keys, negative = torch.arange(text.shape[1]), torch.arange(text.shape[1], both.shape[1])
        rows = [plain_vsf(query[i], key[i], value[i], keys, negative) for i in range(len(query))]
        return attn.to_out[0](torch.stack(rows).flatten(2))


@pytest.mark.parametrize("layers", [None, (1,)])
def test_a_guided_model_equals_plain_vsf_and_ignores_zero_padding(layers: Any) -> None:
    model, inputs = tiny_wan().double(), wan_inputs(dtype=torch.float64)
    negative = negative_text(length=5, dtype=torch.float64)
    padded = torch.nn.functional.pad(negative, (0, 0, 0, 3))
    settings = {"scale": STRENGTH.scale, "offset": STRENGTH.offset, "layers": layers}
    with guide(model, VSF(negative_prompt_embeds=padded, **settings)) as run:
        guided = model(**inputs)[0]
    assert {record.clamped for record in run.trace} == {0.0}
    reference = copy.deepcopy(model)
    projected = reference.condition_embedder.text_embedder(negative)
    for layer in layers or range(3):
        reference.blocks[layer].attn2.processor = PlainVSFProcessor(projected)
    torch.testing.assert_close(guided, reference(**inputs)[0], rtol=0, atol=1e-9)


def test_negatives_of_a_batch_can_differ_in_length() -> None:
    model, inputs = tiny_wan().double(), wan_inputs(dtype=torch.float64)
    negative = negative_text(batch=2, length=6, dtype=torch.float64)
    negative[0, 4:] = 0
    with guide(model, VSF(negative_prompt_embeds=negative)):
        batched = model(**inputs)[0]
    for i, length in ((0, 4), (1, 6)):
        sample = {name: v[i : i + 1] if isinstance(v, Tensor) else v for name, v in inputs.items()}
        with guide(model, VSF(negative_prompt_embeds=negative[i : i + 1, :length])):
            torch.testing.assert_close(model(**sample)[0][0], batched[i], rtol=0, atol=1e-9)


def test_trailing_zero_rows_are_padding() -> None:
    embeds = torch.ones(2, 4, 3)
    assert zero_rows(embeds) is None
    embeds[0, 0] = embeds[0, 3] = 0
    padding = zero_rows(embeds)
    assert padding is not None
    assert padding.tolist() == [[False, False, False, True], [False] * 4]
    assert zero_rows(torch.zeros(1, 4, 3)) is None  # a text of zeros only is not padding


def test_no_mask_is_created_without_masks_and_offset() -> None:
    key, value = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2, 4)
    assert vsf((key, value, None), (key, value, None), 1.0, 0.0)[2] is None


def test_nag_and_vsf_together_raise() -> None:
    with (
        pytest.raises(ValueError, match="NAG and VSF act on the same attention to text"),
        guide(tiny_wan(), NAG(negative_prompt_embeds=negative_text()), VSF(negative_prompt_embeds=negative_text())),
    ):
        pass


@pytest.mark.parametrize(("name", "value"), [("scale", -1), ("scale", "1"), ("offset", float("inf")), ("offset", None)])
def test_invalid_parameters_are_named_in_the_error(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"VSF\\({name}="):
        VSF(negative_prompt="blurry", **{name: value})
