"""NAG in joint attention: the kernel against the plain equation, a whole model against plain streams, and compiled."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_compile import compile_blocks, compile_whole
from test_formulas import plain_grouped_nag, plain_nag
from tiny_families import BY_NAME, Tiny
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from vidguide import NAG, guide
from vidguide.attention.interception import Kernel
from vidguide.calls.denoiser import prediction_of
from vidguide.edits.nag_attention import JointAttentionNAG
from vidguide.edits.nag_combine import Group
from vidguide.functional.lse_merge import merge
from vidguide.kernels import lse_backends
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.family import Joint
from vidguide.transformer.text_stream import Stream

VIDEO, PROMPT, NEGATIVE = 12, 5, 4
BATCH, HEADS, DIM = 2, 3, 8
STRENGTH = NAG(negative_prompt="blurry", scale=4, tau=1.5, alpha=0.5)


@pytest.fixture(autouse=True)
def _quick() -> Any:
    with torch.no_grad():
        yield


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """The equation, for one sample's `(L, H, D)` tensors; `seen` are the keys that are not masked."""
    outputs = []
    for head in range(query.shape[1]):
        scores = query[:, head] @ key[seen][:, head].T / query.shape[-1] ** 0.5
        outputs.append(scores.softmax(-1) @ value[seen][:, head])
    return torch.stack(outputs, 1)


def plain_joint(query: Tensor, key: Tensor, value: Tensor, parts: tuple[Tensor, ...], seen: Tensor) -> Tensor:
    """Joint attention with NAG, one sample and one rule at a time."""
    video, prompt, negative = parts
    output = torch.empty_like(query)
    features = {}
    for name, text in (("prompt", prompt), ("negative", negative)):
        keys = torch.cat([video, text])
        keys = keys[seen[keys]]
        output[text] = softmax_attention(query[text], key, value, keys)
        features[name] = softmax_attention(query[video], key, value, keys)
    strength = (STRENGTH.scale, STRENGTH.tau, STRENGTH.alpha)
    output[video] = plain_nag(features["prompt"][None], features["negative"][None], *strength)[0]
    return output


def sequence(text_first: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of video, prompt and negative."""
    if text_first:
        texts = torch.arange(PROMPT + NEGATIVE)
        return torch.arange(VIDEO) + PROMPT + NEGATIVE, texts[:PROMPT], texts[PROMPT:]
    texts = torch.arange(PROMPT + NEGATIVE) + VIDEO
    return torch.arange(VIDEO), texts[:PROMPT], texts[PROMPT:]


def tensors(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (BATCH, VIDEO + PROMPT + NEGATIVE, HEADS, DIM)
    query, key, value = (2 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)).to(dtype)
    return query, key, value


def stream_of(joint: Joint, dtype: torch.dtype, halved: bool = False) -> Stream:
    stream = Stream(joint, Batch(halved), [])
    stream.text, stream.prompt = torch.zeros(BATCH, NEGATIVE, 1, dtype=dtype), PROMPT
    return stream


def edit_of(stream: Stream, merges: bool, group: Group | None = None) -> JointAttentionNAG:
    """The edit, merging or in two passes."""
    edit = JointAttentionNAG(STRENGTH, group or Group(), stream, True, DIM)
    assert edit.backends is not None
    if not merges:
        edit.backends = None
    return edit


def key_mask(parts: tuple[Tensor, ...]) -> Tensor:
    """`(B, K)`: in each sample the last tokens of each text are padding, in the second sample one more."""
    seen = torch.ones(BATCH, VIDEO + PROMPT + NEGATIVE, dtype=torch.bool)
    for sample in range(BATCH):
        for text in parts[1:]:
            seen[sample, text[len(text) - 1 - sample :]] = False
    return seen


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
        stream = stream_of(Joint(), torch.float64, halved)
        edit = edit_of(stream, merges, Group(norm, BATCH - halved, (2, VIDEO // 2, 1)))
        output = edit(kernel(None, "BLHD"), query, key, value)
        for i in range(int(halved), BATCH):
            sides = [
                softmax_attention(query[i, video], key[i], value[i], torch.cat([video, t])) for t in (prompt, negative)
            ]
            expected = plain_grouped_nag(
                sides[0][None], sides[1][None], STRENGTH.scale, STRENGTH.tau, STRENGTH.alpha, group
            )
            torch.testing.assert_close(output[i, video], expected[0], atol=1e-9, rtol=0)


def kernel(mask: Tensor | None, layout: str) -> Kernel:
    if layout == "BHLD":
        return Kernel(F.scaled_dot_product_attention, layout, (), {"attn_mask": mask, "dropout_p": 0.0})
    return Kernel(dispatched, layout, (), {"attn_mask": mask, "backend": None, "parallel_config": None})


def dispatched(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any) -> Tensor:
    return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (query, key, value)), mask).transpose(1, 2)


@pytest.mark.parametrize("merges", [False, True])
def test_the_unconditional_half_sees_no_negative(merges: bool) -> None:
    query, key, value = tensors(torch.float64)
    halved = edit_of(stream_of(Joint(), torch.float64, halved=True), merges)
    whole = edit_of(stream_of(Joint(), torch.float64), merges)
    output = halved(kernel(None, "BLHD"), query, key, value)
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
    edit(Kernel(sage, "BLHD", (), {"backend": SimpleNamespace(value="sage")}), query, key, value)
    assert calls == [VIDEO + PROMPT, VIDEO + NEGATIVE]


def test_the_merge_is_exact_also_when_nothing_is_let_through() -> None:
    query, key, value = tensors(torch.float64)
    backend = lse_backends.select_backend("cpu", torch.float64, DIM, True)
    assert backend is not None

    def attention(keys: slice, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
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


class PlainStreams:
    """CogVideoX's attention on `[prompt | negative]`, written out."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Any,
        image_rotary_emb: Any,
    ) -> Any:
        from diffusers.models.embeddings import apply_rotary_emb

        texts = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], 1)
        query, key, value = (
            norm(project(both).unflatten(2, (attn.heads, -1)))
            for norm, project in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k), (torch.nn.Identity(), attn.to_v))
        )
        for tensor in (query, key):
            tensor[:, texts:] = apply_rotary_emb(tensor[:, texts:].transpose(1, 2), image_rotary_emb).transpose(1, 2)
        parts = torch.arange(texts, both.shape[1]), torch.arange(7), torch.arange(7, texts)
        seen = torch.ones(both.shape[1], dtype=torch.bool)
        output = torch.stack([plain_joint(*sample, parts, seen) for sample in zip(query, key, value, strict=True)])
        output = attn.to_out[0](output.flatten(2))
        return output[:, texts:], output[:, :texts]


def test_a_model_agrees_with_two_texts_carried_by_hand() -> None:
    tiny = BY_NAME["CogVideoXTransformer3DModel/rotary"]
    inputs, negative = tiny.inputs(2), tiny.negative(2)["encoder_hidden_states"]
    reference, model = tiny.make(), tiny.make()
    for block in reference.transformer_blocks:
        block.attn1.processor = PlainStreams()
    both = torch.cat([inputs["encoder_hidden_states"], negative], 1)
    expected = reference(**{**inputs, "encoder_hidden_states": both})[0]
    settings = {"scale": STRENGTH.scale, "tau": STRENGTH.tau, "alpha": STRENGTH.alpha}
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
