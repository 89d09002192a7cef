"""NAG in joint attention: the kernel against the plain equation, a whole model against plain streams, and compiled."""

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
    dispatched,
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
def _quick() -> Any:
    with torch.no_grad():
        yield


def edit_of(stream: TextStream, merges: bool, group: Group | None = None) -> JointAttentionNAG:
    """The edit, merging or in two passes."""
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
def test_the_kernel_is_the_plain_equation(
    dtype: torch.dtype, text_first: bool, mask: str, layout: str, merges: bool
) -> None:
    parts = sequence(text_first)
    seen = key_mask(parts) if mask != "none" else torch.ones(BATCH, VIDEO + PROMPT + NEGATIVE, dtype=torch.bool)
    masks = {"none": None, "keys": seen[:, None, None], "additive": (~seen[:, None, None]).to(dtype) * -1e9}
    masks["square"] = seen[:, None, None] & seen[:, None, :, None]  # HunyuanVideo 1.5: padding sees nothing either
    query, key, value = tensors(dtype)
    stream = stream_of(Joint(text_first=text_first), dtype)
    stream.masks = {"mask": masks[mask]}
    output = edit_of(stream, merges)(kernel(masks[mask], layout), query, key, value)
    for sample in range(BATCH):
        expected = plain_joint(query[sample], key[sample], value[sample], parts, seen[sample])
        tokens = seen[sample] if mask == "square" else slice(None)
        atol = 1e-9 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(output[sample][tokens], expected[tokens], atol=atol, rtol=1e-5)


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize(("norm", "group"), [("frame", VIDEO // 2), ("clip", VIDEO)])
def test_norms_by_frame_and_clip_are_the_plain_equation(norm: str, group: int, merges: bool) -> None:
    """Also where half of the batch is unconditional: a frame is a frame of the conditional clip."""
    query, key, value = tensors(torch.float64)
    video, prompt, negative = sequence(False)
    for halved in (False, True):
        stream = stream_of(Joint(), torch.float64)
        edit = edit_of(stream, merges, Group(norm, BATCH - halved, (2, VIDEO // 2, 1)))
        output = edit(kernel(None, "BLHD", halved=halved), query, key, value)
        for i in range(int(halved), BATCH):
            sides = [
                softmax_attention(query[i, video], key[i], value[i], torch.cat([video, t])) for t in (prompt, negative)
            ]
            expected = plain_grouped_nag(
                sides[0][None], sides[1][None], STRENGTH.scale, STRENGTH.tau, STRENGTH.alpha, group
            )
            torch.testing.assert_close(output[i, video], expected[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("merges", [False, True])
def test_the_unconditional_half_sees_no_negative(merges: bool) -> None:
    query, key, value = tensors(torch.float64)
    halved = edit_of(stream_of(Joint(), torch.float64), merges)
    whole = edit_of(stream_of(Joint(), torch.float64), merges)
    output = halved(kernel(None, "BLHD", halved=True), query, key, value)
    seen = torch.arange(VIDEO + PROMPT)
    torch.testing.assert_close(output[0, :VIDEO], softmax_attention(query[0, :VIDEO], key[0], value[0], seen))
    torch.testing.assert_close(output[1:], whole(kernel(None, "BLHD"), query, key, value)[1:])


def test_an_attention_backend_of_the_users_own_is_used_throughout() -> None:
    calls = []

    def sage(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any) -> Tensor:
        calls.append(key.shape[1])
        return dispatched(query, key, value, mask)

    query, key, value = tensors(torch.float32)
    edit = edit_of(stream_of(Joint(), torch.float32), True)
    edit(KernelCall(sage, "BLHD", (), {"backend": SimpleNamespace(value="sage")}), query, key, value)
    assert calls == [VIDEO + PROMPT, VIDEO + NEGATIVE]


def test_the_merge_is_exact_also_when_nothing_is_let_through() -> None:
    query, key, value = tensors(torch.float64)
    backend = lse_backends.select_backend("cpu", torch.float64, DIM, True)
    assert backend is not None

    def attention(keys: slice, mask: Tensor | None = None) -> AttentionWithLse:
        return lse_backends.attend(backend, query, key[:, keys], value[:, keys], mask)

    first, second, whole = attention(slice(0, 7)), attention(slice(7, None)), attention(slice(None))
    torch.testing.assert_close(merge(first, second), whole[0])
    shut = torch.zeros(1, 1, 1, key.shape[1] - 7, dtype=torch.bool)
    torch.testing.assert_close(merge(first, attention(slice(7, None), shut)), first[0])


def test_gradients_are_those_of_two_passes() -> None:
    """The kernels' gradients leave their log-sum-exp out, so what is to be learned from is not merged."""
    gradients = []
    for merges in (False, True):
        query, key, value = (tensor.requires_grad_() for tensor in tensors(torch.float64))
        with torch.enable_grad():
            output = edit_of(stream_of(Joint(), torch.float64), merges)(kernel(None, "BLHD"), query, key, value)
            gradients.append(torch.autograd.grad(output.pow(3).sum(), (query, key, value)))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_a_model_agrees_with_two_texts_carried_by_hand() -> None:
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


@pytest.mark.parametrize(
    ("compiled", "name"),
    [(compile_whole, "CogVideoXTransformer3DModel/rotary"), (compile_blocks, "HunyuanVideoTransformer3DModel")],
)
def test_compiled_it_acts_and_agrees(compiled: Any, name: str) -> None:
    torch._dynamo.reset()
    tiny = BY_NAME[name]
    inputs, nag = tiny.inputs(2), NAG(negative_prompt_embeds=tiny.negative())
    model, guided = tiny.make(), guided_by(tiny, nag)
    plain = prediction_of(model(**inputs))
    counter = CompileCounterWithBackend("aot_eager")
    fast = compiled(model, counter)
    counts = []
    for _ in range(2):
        with guide(fast, nag):
            result = prediction_of(fast(**inputs))
        counts.append(counter.frame_count)
        torch.testing.assert_close(result, guided, atol=1e-5, rtol=0)
        assert not torch.allclose(result, plain, atol=1e-3)
    assert counts[0] == counts[1]
    torch.testing.assert_close(prediction_of(fast(**inputs)), plain, atol=1e-5, rtol=0)


def guided_by(tiny: Tiny, nag: NAG) -> Tensor:
    model = tiny.make()
    with guide(model, nag):
        return prediction_of(model(**tiny.inputs(2)))
