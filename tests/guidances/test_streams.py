"""`on=`: NAG and VSF on the video's or the audio's attention to text alone, against plain changes of kernel calls."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.audio_pipelines import AUDIBLE
from tests.helpers.plain_nag import plain_nag
from tests.helpers.tiny_families import BY_NAME, TINY, Tiny, Values
from vidguide import NAG, VSF, guide
from vidguide.calls.outputs import predictions_of
from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.pipelines.generate import generate
from vidguide.pipelines.models.spec import Model
from vidguide.transformer.family import Audio, Family, families

ATTENTION = {  # modules of a block in which a stream attends to text
    "LTX2VideoTransformer3DModel": {"video": "attn2", "audio": "audio_attn2"},
    "Kandinsky6Transformer3DModel": {
        "video": "video_dec_block.cross_attention",
        "audio": "audio_dec_block.cross_attention",
    },
}
WITH_AUDIO = [tiny for tiny in TINY if tiny.key in ATTENTION]
with_audio = pytest.mark.parametrize("tiny", WITH_AUDIO, ids=lambda tiny: tiny.name)
methods = pytest.mark.parametrize("method", [NAG, VSF])
Kernel = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def scores(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Return the masked scores `(B, H, Q, K)` of `(B, L, H, D)` queries and keys."""
    values = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    if mask is None:
        return values
    mask = mask[:, None, None] if mask.ndim == 2 else mask
    return values.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else values + mask


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return torch.einsum("bhqk,bkhd->bqhd", scores(query, key, mask).softmax(-1), value)


def plain(guidance: NegativePromptGuidance, positive: tuple[Any, ...], negative: tuple[Any, ...]) -> Tensor:
    """Return the guided output of one kernel call, each text given as query, key, value and mask."""
    if isinstance(guidance, NAG):
        return plain_nag(attention(*positive), attention(*negative), guidance.scale, guidance.tau, guidance.alpha)
    assert isinstance(guidance, VSF)
    (query, key, value, mask), (_, negative_key, negative_value, negative_mask) = positive, negative
    both = scores(query, key, mask), scores(query, negative_key, negative_mask) - guidance.offset
    values = torch.cat([value, -guidance.scale * negative_value], 1)
    return torch.einsum("bhqk,bkhd->bqhd", torch.cat(both, -1).softmax(-1), values)


@contextmanager
def replaced_kernels(model: Any, names: list[str], replace: Callable[[Any, tuple[Any, ...]], Tensor]) -> Iterator[None]:
    """Replace the kernel calls of modules of these names by `replace(module, (query, key, value, mask))`."""
    module, entered = importlib.import_module(type(model).__module__), list[Any]()
    kernel: Kernel = vars(module)["dispatch_attention_fn"]

    def dispatch(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **settings: Any) -> Tensor:
        if entered:
            return replace(entered[-1], (query, key, value, attn_mask))
        return kernel(query, key, value, attn_mask=attn_mask, **settings)

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "dispatch_attention_fn", dispatch)
        for name, attention in model.named_modules():
            if any(name.endswith(f".{end}") for end in names):
                before = attention.register_forward_pre_hook(lambda module, args: entered.append(module))
                after = attention.register_forward_hook(lambda module, args, output: entered.remove(module))
                stack.callback(before.remove)
                stack.callback(after.remove)
        yield


def plainly_guided(tiny: Tiny, inputs: Values, negative: Values, guidance: Any, streams: list[str]) -> list[Tensor]:
    """Return predictions with the guidance at the streams' kernel calls.

    The negative's keys and values are those of a call with the negative as prompt.
    """
    model, texts = tiny.make().to(tiny.dtype), {}
    names = [ATTENTION[tiny.key][stream] for stream in streams]

    def record(module: Any, call: tuple[Any, ...]) -> Tensor:
        texts[module] = call[1:]
        return attention(*call)

    with replaced_kernels(model, names, record):
        model(**{**inputs, **negative})
    with replaced_kernels(model, names, lambda module, call: plain(guidance, call, (call[0], *texts[module]))):
        return predictions_of(model(**inputs))


@methods
@pytest.mark.parametrize("on", ["video", "audio", "both"])
@with_audio
def test_only_the_stream_is_guided(tiny: Tiny, on: str, method: Any) -> None:
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    guidance, model = method(negative_prompt_embeds=negative, on=on), tiny.make().to(tiny.dtype)
    streams = ["video", "audio"] if on == "both" else [on]
    expected = plainly_guided(tiny, inputs, negative, guidance, streams)
    unguided = predictions_of(model(**inputs))
    with guide(model, guidance) as run:
        guided = predictions_of(model(**inputs))
    assert len(guided) == len(expected) == 2
    for result, plain_result, before in zip(guided, expected, unguided, strict=True):
        torch.testing.assert_close(result, plain_result, atol=1e-6, rtol=0)  # norms of Kandinsky 6 are in float32
        assert (plain_result - before).abs().max() > 1e-4
    assert [record.stream for record in run.trace if (record.layer, record.step) == (1, 0)] == streams


@methods
@with_audio
def test_both_is_the_default(tiny: Tiny, method: Any) -> None:
    inputs, negative, model = tiny.inputs(2), tiny.negative(), tiny.make()
    results = []
    for settings in ({}, {"on": "both"}):
        with guide(model, method(negative_prompt_embeds=negative, **settings)):
            results.append(predictions_of(model(**inputs)))
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@methods
@pytest.mark.parametrize("name", ["WanTransformer3DModel", "HunyuanVideoTransformer3DModel"])
def test_a_family_without_audio_has_the_video_alone(name: str, method: Any) -> None:
    tiny = BY_NAME[name]
    model, inputs, negative, results = tiny.make(), tiny.inputs(1), tiny.negative(), []
    for on in ("both", "video"):
        with guide(model, method(negative_prompt_embeds=negative, on=on)):
            results.append(predictions_of(model(**inputs))[0])
    assert torch.equal(*results)
    refused = method(negative_prompt_embeds=negative, on="audio")
    family = families()[name].name
    message = rf"{method.__name__}\(on='audio'\): {family} makes no audio; must be video or both"
    with pytest.raises(ValueError, match=message), guide(model, refused):
        pass


@methods
def test_a_family_whose_streams_share_an_attention_takes_both_only(method: Any) -> None:
    shared = Family(
        name="Shared",
        transformers=("Shared",),
        encode=lambda pipe, prompts, inputs: {},
        audio=Audio(sample_rate=lambda pipe, output: 24000),
    )
    method(negative_prompt="red").check_stream(shared)
    for on in ("video", "audio"):
        with pytest.raises(ValueError, match=rf"\(on='{on}'\): Shared attends to text from video and audio at once"):
            method(negative_prompt="red", on=on).check_stream(shared)


@methods
def test_an_unknown_stream_is_refused(method: Any) -> None:
    with pytest.raises(ValueError, match=rf"{method.__name__}\(on='sound'\): must be one of video, audio, both"):
        method(negative_prompt="red", on="sound")


@methods
@pytest.mark.skipif(len(AUDIBLE) < 2, reason="this diffusers has no Kandinsky 6")
def test_audio_is_refused_before_any_step_where_the_call_makes_none(method: Any) -> None:
    pipe, silent = AUDIBLE[1].pipe(), Model(source="org/tiny", call={"sample_audio": False})
    pipe.transformer.register_forward_pre_hook(lambda *args: pytest.fail("a step was taken"))
    with pytest.raises(ValueError, match=r"\(on='audio'\): this call makes no audio; must be video or both"):
        generate(
            "red", model=silent, pipe=pipe, guidance=[method(negative_prompt="red", on="audio")], **AUDIBLE[1].settings
        )
