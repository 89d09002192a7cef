"""NAG in joint attention: edit against the plain equation, model against plain streams, eager against compiled."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.helpers.compilation import compile_blocks, compile_whole
from tests.helpers.joint_attention import (
    BATCH,
    DIM,
    NEGATIVE,
    PROMPT,
    STRENGTH,
    VIDEO,
    PlainStreams,
    dispatch_attention,
    kernel,
    key_mask,
    plain_joint,
    sequence,
    softmax_attention,
    stream_of,
    tensors,
)
from tests.helpers.plain_nag import plain_grouped_nag
from tests.helpers.tiny_families import BY_NAME, Tiny
from vidguide import NAG, guide
from vidguide.attention.site import KernelCall
from vidguide.calls.outputs import prediction_of
from vidguide.edits.nag_attention import JointAttentionNAG
from vidguide.edits.nag_combine import Combination, Group
from vidguide.functional.lse_merge import AttentionWithLse, merge
from vidguide.kernels import lse_backends
from vidguide.transformer.family import Joint
from vidguide.transformer.text_stream import TextStream


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def edit_of(stream: TextStream, merges: bool, group: Group | None = None) -> JointAttentionNAG:
    """Return the edit, merging by log-sum-exp or in two passes."""
    strength = STRENGTH.scale, STRENGTH.tau, STRENGTH.alpha
    edit = JointAttentionNAG(Combination(strength, group or Group()), stream, True, DIM)
    assert edit.backends is not None
    if not merges:
        edit.backends = None
    return edit


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize("layout", ["BLHD", "BHLD"])
@pytest.mark.parametrize("mask", ["none", "keys", "square", "additive"])
@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_edit_equals_the_plain_equation(
    dtype: torch.dtype, text_first: bool, mask: str, layout: str, merges: bool
) -> None:
    parts = sequence(text_first)
    valid = key_mask(parts) if mask != "none" else torch.ones(BATCH, VIDEO + PROMPT + NEGATIVE, dtype=torch.bool)
    masks = {"none": None, "keys": valid[:, None, None], "additive": (~valid[:, None, None]).to(dtype) * -1e9}
    masks["square"] = valid[:, None, None] & valid[:, None, :, None]  # HunyuanVideo 1.5 also masks padded queries
    query, key, value = tensors(dtype)
    stream = stream_of(Joint(text_first=text_first), dtype)
    stream.masks = {"mask": masks[mask]}
    output = edit_of(stream, merges)(kernel(masks[mask], layout), query, key, value)
    for sample in range(BATCH):
        expected = plain_joint(query[sample], key[sample], value[sample], parts, valid[sample])
        tokens = valid[sample] if mask == "square" else slice(None)
        atol = 1e-9 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(output[sample][tokens], expected[tokens], atol=atol, rtol=1e-5)


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize(("norm", "group"), [("frame", VIDEO // 2), ("clip", VIDEO)])
def test_norms_by_frame_and_clip_equal_the_plain_equation(norm: str, group: int, merges: bool) -> None:
    """Also for a CFG batch: frames are those of the conditional clip."""
    query, key, value = tensors(torch.float64)
    video, prompt, negative = sequence(False)
    for halved in (False, True):
        stream = stream_of(Joint(), torch.float64)
        edit = edit_of(stream, merges, Group(norm, BATCH - halved, (2, VIDEO // 2, 1)))
        output = edit(kernel(None, "BLHD", halved=halved), query, key, value)
        for i in range(int(halved), BATCH):
            features = [
                softmax_attention(query[i, video], key[i], value[i], torch.cat([video, t])) for t in (prompt, negative)
            ]
            expected = plain_grouped_nag(
                features[0][None], features[1][None], STRENGTH.scale, STRENGTH.tau, STRENGTH.alpha, group
            )
            torch.testing.assert_close(output[i, video], expected[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("merges", [False, True])
def test_uncond_samples_do_not_attend_to_the_negative(merges: bool) -> None:
    query, key, value = tensors(torch.float64)
    cfg_edit = edit_of(stream_of(Joint(), torch.float64), merges)
    edit = edit_of(stream_of(Joint(), torch.float64), merges)
    output = cfg_edit(kernel(None, "BLHD", halved=True), query, key, value)
    keys = torch.arange(VIDEO + PROMPT)
    torch.testing.assert_close(output[0, :VIDEO], softmax_attention(query[0, :VIDEO], key[0], value[0], keys))
    torch.testing.assert_close(output[1:], edit(kernel(None, "BLHD"), query, key, value)[1:])


def test_the_users_attention_backend_runs_both_passes() -> None:
    lengths = []

    def sage(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any) -> Tensor:
        lengths.append(key.shape[1])
        return dispatch_attention(query, key, value, mask)

    query, key, value = tensors(torch.float32)
    edit = edit_of(stream_of(Joint(), torch.float32), True)
    edit(KernelCall(sage, "BLHD", (), {"backend": SimpleNamespace(value="sage")}), query, key, value)
    assert lengths == [VIDEO + PROMPT, VIDEO + NEGATIVE]


def test_the_merge_is_exact_also_for_fully_masked_keys() -> None:
    query, key, value = tensors(torch.float64)
    backend = lse_backends.select_backend("cpu", torch.float64, DIM, True)
    assert backend is not None

    def attention(keys: slice, mask: Tensor | None = None) -> AttentionWithLse:
        return lse_backends.attend(backend, query, key[:, keys], value[:, keys], mask)

    first, second, full = attention(slice(0, 7)), attention(slice(7, None)), attention(slice(None))
    torch.testing.assert_close(merge(first, second), full[0])
    closed_mask = torch.zeros(1, 1, 1, key.shape[1] - 7, dtype=torch.bool)
    torch.testing.assert_close(merge(first, attention(slice(7, None), closed_mask)), first[0])


def test_gradients_equal_those_of_two_passes() -> None:
    """Kernels do not differentiate through the log-sum-exp, so inputs that require gradients are not merged."""
    gradients = []
    for merges in (False, True):
        query, key, value = (tensor.requires_grad_() for tensor in tensors(torch.float64))
        with torch.enable_grad():
            output = edit_of(stream_of(Joint(), torch.float64), merges)(kernel(None, "BLHD"), query, key, value)
            gradients.append(torch.autograd.grad(output.pow(3).sum(), (query, key, value)))
    for two_passes, merged in zip(*gradients, strict=True):
        torch.testing.assert_close(merged, two_passes)


def test_a_guided_model_equals_a_model_with_plain_text_streams() -> None:
    tiny = BY_NAME["CogVideoXTransformer3DModel/rotary"]
    inputs, negative = tiny.inputs(2), tiny.negative(2)["encoder_hidden_states"]
    reference, model = tiny.make(), tiny.make()
    for block in reference.transformer_blocks:
        block.attn1.processor = PlainStreams()
    both = torch.cat([inputs["encoder_hidden_states"], negative], 1)
    expected = reference(**{**inputs, "encoder_hidden_states": both})[0]
    settings: dict[str, Any] = {"scale": STRENGTH.scale, "tau": STRENGTH.tau, "alpha": STRENGTH.alpha}
    with guide(model, NAG(negative_prompt_embeds=negative, **settings)):
        torch.testing.assert_close(model(**inputs)[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiled", "name"),
    [(compile_whole, "CogVideoXTransformer3DModel/rotary"), (compile_blocks, "HunyuanVideoTransformer3DModel")],
)
def test_a_compiled_guided_model_equals_the_eager_one(compiled: Any, name: str) -> None:
    torch._dynamo.reset()
    tiny = BY_NAME[name]
    inputs, nag = tiny.inputs(2), NAG(negative_prompt_embeds=tiny.negative())
    model, guided = tiny.make(), predict_guided(tiny, nag)
    unguided = prediction_of(model(**inputs))
    counter = CompileCounterWithBackend("aot_eager")
    compiled_model = compiled(model, counter)
    counts = []
    for _ in range(2):
        with guide(compiled_model, nag):
            result = prediction_of(compiled_model(**inputs))
        counts.append(counter.frame_count)
        torch.testing.assert_close(result, guided, atol=1e-5, rtol=0)
        assert not torch.allclose(result, unguided, atol=1e-3)
    assert counts[0] == counts[1]
    torch.testing.assert_close(prediction_of(compiled_model(**inputs)), unguided, atol=1e-5, rtol=0)


def predict_guided(tiny: Tiny, nag: NAG) -> Tensor:
    model = tiny.make()
    with guide(model, nag):
        return prediction_of(model(**tiny.inputs(2)))
