"""NAG modulates the negative's text by the negative's own vector: HunyuanVideo, Framepack and Mochi against plain ones.

The plain models have every block written out for three streams: video, prompt and negative.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import same
from diffusers import FlowMatchEulerDiscreteScheduler
from test_compile import compile_whole
from test_joint import STRENGTH, plain_joint
from tiny_families import BY_NAME, TINY, Tiny, Values, noise, row
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from vidguide import EMAG, NAG, STG, VSF, guide
from vidguide.calls.denoiser import prediction_of
from vidguide.guidances.base import Guidance
from vidguide.transformer.block_arguments import Arguments
from vidguide.transformer.family import blocks_of, families

HUNYUAN = ("HunyuanVideoTransformer3DModel", "HunyuanVideoTransformer3DModel/token_replace")
FRAMEPACK, MOCHI = "HunyuanVideoFramepackTransformer3DModel", "MochiTransformer3DModel"
NAMES = (*HUNYUAN, FRAMEPACK, MOCHI)
POOLED = (*HUNYUAN, FRAMEPACK)
every_model = pytest.mark.parametrize("tiny", [BY_NAME[name] for name in NAMES], ids=lambda tiny: tiny.name)
every_pooled = pytest.mark.parametrize("tiny", [BY_NAME[name] for name in POOLED], ids=lambda tiny: tiny.name)


@pytest.fixture(autouse=True)
def _quick() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and rotary embeddings in float64 too, which the models themselves take in float32."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)


class Negative:
    """A negative's tokens `(B, L, C)` on their way through the blocks, its vector `(B, C)`, and its valid tokens."""

    def __init__(self, text: Tensor, vector: Tensor, seen: Tensor) -> None:
        self.text, self.vector, self.seen = text, vector, seen


def negative_of(model: Any, inputs: Values, negative: Values) -> Negative:
    """What comes before the blocks, for the negative."""
    embeds, mask = negative["encoder_hidden_states"], negative["encoder_attention_mask"]
    if not hasattr(model, "context_embedder"):
        return Negative(*model.time_embed(inputs["timestep"], embeds, mask, hidden_dtype=embeds.dtype)[::-1], mask > 0)
    text = model.context_embedder(embeds, inputs["timestep"], mask)
    vector = model.time_text_embed(inputs["timestep"], negative["pooled_projections"], inputs.get("guidance"))[0]
    if "image_embeds" in inputs:
        image = model.image_projection(inputs["image_embeds"])
        text, mask = torch.cat([image, text], 1), torch.cat([torch.ones(image.shape[:2]), mask], 1)
    return Negative(text, vector, mask > 0)


def rotated(heads: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """`(B, L, H, D)`, pairs of channels turned by angles `(L, D)` or `(L, H, D / 2)`."""
    cos, sin = rope
    cos, sin = (cos[:, None, ::2], sin[:, None, ::2]) if cos.ndim == 2 else (cos, sin)
    real, imaginary = heads[..., ::2], heads[..., 1::2]
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -1).flatten(-2)


class PlainBlock(nn.Module):
    """A block with its negative beside it."""

    def __init__(self, block: Any, negative: Negative) -> None:
        super().__init__()
        self.block, self.negative = block, negative

    def attention(self, streams: list[Tensor], mask: Tensor | None, rope: Any) -> list[Tensor]:
        """Features of normed video, prompt and negative `(B, L, C)`, before the output's projection."""
        attn = getattr(self.block, "attn", None) or self.block.attn1
        added = getattr(attn, "add_q_proj", None) is not None
        own = [(attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k), (attn.to_v, nn.Identity())]
        text = own
        if added:
            text = [(attn.add_q_proj, attn.norm_added_q), (attn.add_k_proj, attn.norm_added_k)]
            text += [(attn.add_v_proj, nn.Identity())]
        joint = []
        for n in range(3):
            parts = [
                norm(project(stream).unflatten(2, (attn.heads, -1)))
                for stream, (project, norm) in zip(streams, (own[n], text[n], text[n]), strict=True)
            ]
            if n < 2:
                parts[0] = rotated(parts[0], rope)
            joint.append(torch.cat(parts, 1))
        lengths = [stream.shape[1] for stream in streams]
        indices = torch.arange(sum(lengths)).split(lengths)
        prompt = torch.ones(lengths[1]) if mask is None else mask.flatten(1)[:, -lengths[1] :]
        seen = [torch.ones(len(streams[0]), lengths[0]), prompt.expand(len(streams[0]), -1), self.negative.seen]
        seen = torch.cat([part.bool() for part in seen], 1)
        features = [plain_joint(*sample, indices, valid) for *sample, valid in zip(*joint, seen, strict=True)]
        return list(torch.stack(features).flatten(2).split(lengths, 1))


def for_tokens(modulations: Tensor, count: int, tokens: int) -> list[Tensor]:
    """`(B, count * C)` as so many `(B, L, C)`."""
    return [one[:, None].expand(-1, tokens, -1) for one in modulations.chunk(count, 1)]


class PlainHunyuan(PlainBlock):
    """A block of HunyuanVideo; where the first frame is an image, its tokens are modulated by a vector of their own."""

    def forward(
        self,
        video: Tensor,
        prompt: Tensor,
        vector: Tensor,
        mask: Tensor | None,
        rope: Any,
        image_vector: Tensor | None = None,
        image_tokens: int = 0,
    ) -> tuple[Tensor, Tensor]:
        streams = [video, prompt, self.negative.text]
        modulations = []
        for i, norm in enumerate(self.norms()):
            by = self.negative.vector if i == 2 else vector
            leading = image_tokens if i == 0 and image_vector is not None else 0
            parts = [(by, streams[i].shape[1] - leading)]
            if image_vector is not None and leading:
                parts = [(image_vector, leading), *parts]
            each = [for_tokens(norm.linear(F.silu(one)), self.count, tokens) for one, tokens in parts]
            modulations.append([torch.cat(part, 1) for part in zip(*each, strict=True)])
        video, prompt, self.negative.text = self.outputs(streams, modulations, mask, rope)
        return video, prompt


class PlainDual(PlainHunyuan):
    count = 6

    def norms(self) -> list[Any]:
        return [self.block.norm1, self.block.norm1_context, self.block.norm1_context]

    def outputs(self, streams: list[Tensor], modulations: list[list[Tensor]], mask: Any, rope: Any) -> list[Tensor]:
        block, outputs = self.block, []
        normed = [modulated(stream, *two) for stream, (*two, _, _, _, _) in zip(streams, modulations, strict=True)]
        attended = self.attention(normed, mask, rope)
        for i, (_, _, gate, shift, scale, mlp_gate) in enumerate(modulations):
            project, feed = (block.attn.to_add_out, block.ff_context) if i else (block.attn.to_out[0], block.ff)
            stream = streams[i] + gate * project(attended[i])
            outputs.append(stream + mlp_gate * feed(modulated(stream, shift, scale)))
        return outputs


class PlainSingle(PlainHunyuan):
    count = 3

    def norms(self) -> list[Any]:
        return [self.block.norm] * 3

    def outputs(self, streams: list[Tensor], modulations: list[list[Tensor]], mask: Any, rope: Any) -> list[Tensor]:
        block, outputs = self.block, []
        normed = [modulated(stream, *two) for stream, (*two, _) in zip(streams, modulations, strict=True)]
        attended = self.attention(normed, mask, rope)
        for i, (_, _, gate) in enumerate(modulations):
            mlp = F.gelu(block.proj_mlp(normed[i]), approximate="tanh")
            outputs.append(streams[i] + gate * block.proj_out(torch.cat([attended[i], mlp], 2)))
        return outputs


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


class PlainMochi(PlainBlock):
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        encoder_attention_mask: Tensor,
        image_rotary_emb: Any,
    ) -> tuple[Tensor, Tensor]:
        block, streams = self.block, [hidden_states, encoder_hidden_states, self.negative.text]
        vectors, modulations = [F.silu(vector) for vector in (temb, temb, self.negative.vector)], []
        for i, vector in enumerate(vectors):
            if i and block.context_pre_only:
                modulations.append([block.norm1_context.linear_1(vector)[:, None]])
            else:
                linear = (block.norm1_context if i else block.norm1).linear
                modulations.append(for_tokens(linear(vector), 4, streams[i].shape[1]))
        normed = [rms(stream) * (1 + scale) for stream, (scale, *_) in zip(streams, modulations, strict=True)]
        attended = self.attention(normed, encoder_attention_mask, image_rotary_emb)
        outputs = []
        for i, stream in enumerate(streams):
            if i and block.context_pre_only:
                outputs.append(stream)
                continue
            _, gate, scale, mlp_gate = modulations[i]
            project, feed = (block.attn1.to_add_out, block.ff_context) if i else (block.attn1.to_out[0], block.ff)
            # The text of Mochi that is padding gets zeros from its attention.
            valid = (torch.ones(1, 1), encoder_attention_mask, self.negative.seen)[i][..., None]
            stream = stream + rms(project(attended[i] * valid)) * gate.tanh()
            outputs.append(stream + rms(feed(rms(stream) * (1 + scale))) * mlp_gate.tanh())
        video, prompt, self.negative.text = outputs
        return video, prompt


def rms(tokens: Tensor) -> Tensor:
    return tokens / (tokens.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def plain_prediction(tiny: Tiny, inputs: Values, negative: Values, skipped: int | None = None) -> Tensor:
    """The guided prediction by module surgery, less one block of those in front."""
    model = tiny.make().to(torch.float64)
    beside = negative_of(model, inputs, negative)
    kinds = {"transformer_blocks": PlainMochi if tiny.key == MOCHI else PlainDual}
    kinds["single_transformer_blocks"] = PlainSingle
    for name, kind in kinds.items():
        blocks = getattr(model, name, nn.ModuleList())
        for i, block in enumerate(blocks):
            blocks[i] = kind(block, beside)
    if skipped is not None:
        del model.transformer_blocks[skipped]
    return prediction_of(model(**inputs))


def nag(negative: Values) -> NAG:
    return NAG(negative_prompt_embeds=negative, scale=STRENGTH.scale, tau=STRENGTH.tau, alpha=STRENGTH.alpha)


def guided(tiny: Tiny, inputs: Values, *guidances: Guidance) -> Tensor:
    model = tiny.make().to(torch.float64)
    with guide(model, *guidances):
        return prediction_of(model(**inputs))


@pytest.mark.parametrize("tiny", [tiny for tiny in TINY if families()[tiny.key].joint], ids=lambda tiny: tiny.name)
def test_families_declare_whether_the_vector_depends_on_the_text(tiny: Tiny) -> None:
    model, inputs, vectors = tiny.make(), tiny.inputs(1), []
    _, _, block = blocks_of(families()[tiny.key], model)[0]
    arguments = Arguments(block)
    block.register_forward_pre_hook(lambda _, *given: vectors.append(arguments.get("temb", *given)), with_kwargs=True)
    for text in ({}, tiny.text(1, 7, 6)):
        model(**{**inputs, **text})
    joint = families()[tiny.key].joint
    assert joint is not None
    assert torch.equal(*vectors) == (joint.modulation is None)


@pytest.mark.usefixtures("_exact")
@pytest.mark.parametrize("batch", [1, 2])
@every_model
def test_a_model_agrees_with_three_plain_streams(tiny: Tiny, batch: int) -> None:
    inputs, negative = tiny.exact(tiny.inputs(batch)), tiny.exact(tiny.negative(batch))
    expected = plain_prediction(tiny, inputs, negative)
    torch.testing.assert_close(guided(tiny, inputs, nag(negative)), expected, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("_exact")
@every_model
def test_so_does_a_second_pass(tiny: Tiny) -> None:
    """STG-R: the prediction without block 1, whose first blocks are not run again."""
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    expected, weak = (plain_prediction(tiny, inputs, negative, skipped) for skipped in (None, 1))
    result = guided(tiny, inputs, nag(negative), STG(layers=(1,), scale=2, mode="residual"))
    torch.testing.assert_close(result, expected + 2 * (expected - weak), atol=1e-12, rtol=0)


@pytest.mark.usefixtures("_exact")
def test_so_does_the_conditional_half_of_a_doubled_batch() -> None:
    tiny = BY_NAME[MOCHI]
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    uncond = {**inputs, **tiny.exact(tiny.text(2, 7, 6))}
    both = {
        name: torch.cat([uncond[name], value]) if isinstance(value, Tensor) else value for name, value in inputs.items()
    }
    model, stg = tiny.make().to(torch.float64), STG(layers=(1,), scale=2, mode="residual")
    plain = prediction_of(model(**uncond))
    for guidances, weight in (((nag(negative),), 0), ((nag(negative), stg), 2)):
        with guide(SimpleNamespace(transformer=model, do_classifier_free_guidance=True), *guidances):
            halves = prediction_of(model(**both)).chunk(2)
        expected, weak = (plain_prediction(tiny, inputs, negative, skipped) for skipped in (None, 1))
        if not weight:
            torch.testing.assert_close(halves[0], plain, atol=1e-12, rtol=0)
        difference = (halves[1] - halves[0]) - (expected + weight * (expected - weak) - plain)
        assert difference.abs().max() < 1e-12


def pooled(tiny: Tiny, value: float) -> Values:
    """A negative with that in its pooled embedding."""
    negative = tiny.exact(tiny.negative())
    return {**negative, "pooled_projections": torch.full_like(negative["pooled_projections"], value)}


@every_pooled
def test_nag_follows_the_negatives_pooled_embedding_and_vsf_does_not(tiny: Tiny) -> None:
    inputs = tiny.exact(tiny.inputs(2))
    by_nag = [guided(tiny, inputs, nag(pooled(tiny, value))) for value in (0, 1, 10)]
    by_vsf = [guided(tiny, inputs, VSF(negative_prompt_embeds=pooled(tiny, value))) for value in (0, 1, 10)]
    for other in (1, 2):
        assert (by_nag[other] - by_nag[0]).abs().amax(tuple(range(1, by_nag[0].ndim))).min() > 1e-4
        assert torch.equal(by_vsf[other], by_vsf[0])


@every_pooled
def test_where_pooled_embeddings_are_equal_it_is_as_by_the_prompts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for ready embeddings alone, which leave the pooled one to the prompt."""
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    negative["pooled_projections"] = inputs["pooled_projections"]
    without = {name: value for name, value in negative.items() if name != "pooled_projections"}
    own, ready = guided(tiny, inputs, nag(negative)), guided(tiny, inputs, nag(without))
    monkeypatch.setattr(NAG, "own_vector", False)
    by_prompt = guided(tiny, inputs, nag(negative))
    torch.testing.assert_close(own, by_prompt, atol=1e-12, rtol=0)
    torch.testing.assert_close(ready, by_prompt, atol=1e-12, rtol=0)


@every_model
def test_the_vector_is_that_of_the_step(tiny: Tiny) -> None:
    """Two calls in one run at two timesteps: the second is as if it were alone."""
    negative = tiny.exact(tiny.negative())
    first, second = ({**tiny.exact(tiny.inputs(1)), "timestep": torch.tensor([time])} for time in (900.0, 100.0))
    model = tiny.make().to(torch.float64)
    scheduler = FlowMatchEulerDiscreteScheduler()
    with guide(model, nag(negative), scheduler=scheduler):
        scheduler.set_timesteps(2)
        prediction = prediction_of(model(**first))
        scheduler.step(prediction, scheduler.timesteps[0], prediction)
        result = prediction_of(model(**second))
    torch.testing.assert_close(result, guided(tiny, second, nag(negative)), atol=1e-12, rtol=0)


@every_model
def test_several_negatives_each_have_their_own(tiny: Tiny) -> None:
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    together = guided(tiny, inputs, nag(negative))
    apart = [guided(tiny, row(inputs, i, 2), nag(row(negative, i, 2))) for i in range(2)]
    tiny.agree(together, torch.cat(apart))


@every_model
def test_modules_are_as_they_were(tiny: Tiny, snapshot: Any) -> None:
    model, inputs = tiny.make(), tiny.inputs(2)
    before = snapshot(model)
    with guide(model, nag(tiny.negative()), EMAG(decay=0.5, select=(1,), start=0.0, stop=1.0, scale=4)):
        model(**inputs)
    assert same(snapshot(model), before)
    (norm,) = (module for name, module in model.named_modules() if name == "transformer_blocks.1.norm1_context")
    handle = norm.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError), guide(model, nag(tiny.negative())):
        model(**inputs)
    handle.remove()
    assert same(snapshot(model), before)


def fail(*args: Any) -> None:
    raise ZeroDivisionError("in the middle of a block")


def test_a_block_without_a_declared_norm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = BY_NAME[HUNYUAN[0]]
    modulation = families()[tiny.key].joint.modulation  # type: ignore[union-attr]
    monkeypatch.setitem(vars(modulation), "norms", ("norm1_context",))
    with pytest.raises(LookupError, match="HunyuanVideoSingleTransformerBlock: none of norm1_context"):
        guided(tiny, tiny.exact(tiny.inputs(1)), nag(tiny.exact(tiny.negative())))


@pytest.mark.parametrize("name", [HUNYUAN[1], MOCHI])
def test_compiled_it_acts_and_agrees(name: str) -> None:
    torch._dynamo.reset()
    tiny = BY_NAME[name]
    inputs, negative = tiny.inputs(2), {**tiny.negative(), **another_pooled(tiny)}
    model, eager = tiny.make(), tiny.make()
    with guide(eager, nag(negative)):
        expected = prediction_of(eager(**inputs))
    counter, counts = CompileCounterWithBackend("aot_eager"), []
    fast: Any = compile_whole(model, counter) if name != MOCHI else torch.compile(model, backend=counter)
    for _ in range(2):
        with guide(fast, nag(negative)):
            result = prediction_of(fast(**inputs))
        counts.append(counter.frame_count)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert counts[0] == counts[1]


def another_pooled(tiny: Tiny) -> Values:
    return {"pooled_projections": noise(1, 8, seed=11)} if tiny.name in POOLED else {}
