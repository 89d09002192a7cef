"""Long videos made in segments: averages, texts and traces of each segment are those of that segment alone.

The pipelines of diffusers run with tiny transformers in float64. Each segment's guided predictions are compared with
the papers' equations, from full passes of a plain model that sees the segment's calls only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.helpers.more_pipelines import LONG, MORE_CASES
from tests.helpers.plain_nag import plain_nag
from tests.helpers.tiny_families import Values
from tests.helpers.tiny_pipelines import CASES, Case, picture
from vidguide import EMAG, NAG, guide
from vidguide.calls.outputs import prediction_of
from vidguide.guidances.base import Guidance
from vidguide.tracing.run import Run

STEPS, SEGMENTS = 4, 3
PROMPTS = "a red circle | two blue squares moving down | a green triangle"
FIVE_SIGMAS = {"sigmas": [0.9, 0.7, 0.4, 0.2, 0.0]}  # the last one is no step
Step = Callable[[Any, Values], Tensor]


def long_case(name: str) -> Case:
    """Return a case whose clip is made in SEGMENTS segments of STEPS steps."""
    if name == LONG.pipeline:
        # Five latent frames, in windows of three that overlap by two.
        return replace(LONG, call={**LONG.call, "num_frames": 33, "prompt": PROMPTS}, steps=FIVE_SIGMAS)
    case = next(case for case in [*CASES, *MORE_CASES] if case.pipeline == name)
    longer = {
        "HeliosPipeline": {"num_frames": 15},
        "HunyuanVideoFramepackPipeline": {"num_frames": 13},
        "SkyReelsV2DiffusionForcingPipeline": {"num_frames": 17, "overlap_history": 5, "addnoise_condition": 0},
    }
    return replace(case, call={**case.call, **longer[name]}, steps={"num_inference_steps": STEPS})


def present(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name in names if hasattr(diffusers, name)])


@contextmanager
def recorded(pipe: Any) -> Iterator[list[tuple[Values, Tensor]]]:
    """Record the arguments and results of the pipeline's calls of its transformer, after guidance."""
    transformer, calls, depth = pipe.transformer, list[tuple[Values, Tensor]](), [0]
    guided = type(transformer)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert not args
        depth[0] += 1
        try:
            output = guided.__call__(self, **kwargs)
        finally:
            depth[0] -= 1
        if not depth[0]:
            copied = {name: value.clone() if isinstance(value, Tensor) else value for name, value in kwargs.items()}
            calls.append((copied, prediction_of(output).clone()))
        return output

    transformer.__class__ = type(guided.__name__, (guided,), {"__call__": call})
    try:
        yield calls
    finally:
        transformer.__class__ = guided


def sample(case: Case, *guidances: Guidance) -> tuple[list[list[tuple[Values, Tensor]]], Run]:
    """Run a pipeline in float64 without classifier-free guidance; return the calls by segment, and the run."""
    pipe = case.pipe(False)
    pipe.transformer.to(torch.float64)
    arguments = case.arguments(pipe, False) if case.pipeline != LONG.pipeline else words(case)
    if case.pipeline == LONG.pipeline:
        pipe.text_encoder.to(torch.float64)
    with guide(pipe, *guidances) as run, recorded(pipe) as calls:
        pipe(**arguments)
    assert len(calls) % SEGMENTS == 0
    size = len(calls) // SEGMENTS
    return [calls[start : start + size] for start in range(0, len(calls), size)], run


def words(case: Case) -> Values:
    generator = torch.Generator().manual_seed(0)
    return {**case.call, **case.steps, **case.off, "generator": generator, "output_type": "latent"}


def negative_of(case: Case, **changes: Any) -> tuple[NAG, Values]:
    """Return NAG with random embeddings of a negative prompt, and these."""
    negative = case.model.exact(case.model.text(1, case.length, 5))
    width = case.config.get("caption_channels")  # of LTX's encoder of words
    negative["encoder_hidden_states"] = negative["encoder_hidden_states"][..., :width]
    return NAG(negative_prompt_embeds=negative, **changes), negative


class PlainNAG:
    """Cross-attention with plain NAG, of any processor without rotary embeddings that masks keys.

    Args:
        negative: keys' and values' input of the negative `(1, L, C)`. valid: its tokens that are no padding `(1, L)`.
    """

    def __init__(self, nag: NAG, negative: Tensor, valid: Tensor | None = None) -> None:
        self.nag, self.negative, self.valid = nag, negative, valid

    def __call__(
        self, attn: Any, hidden_states: Tensor, text: Tensor, mask: Any = None, *rest: Any, **more: Any
    ) -> Any:
        bias = None if mask is None else mask.view(mask.shape[0], 1, 1, -1)
        padded = None if self.valid is None else (1 - self.valid)[:, None, None] * -10000.0
        positive, negative = (
            self.attend(attn, hidden_states, text, bias),
            self.attend(attn, hidden_states, self.negative, padded),
        )
        features = plain_nag(positive, negative, self.nag.scale, self.nag.tau, self.nag.alpha)
        return attn.to_out[0](features.flatten(2))

    @staticmethod
    def attend(attn: Any, hidden_states: Tensor, text: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(text)), attn.to_v(text)
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, value))
        logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("bhqk,bkhd->bqhd", (logits if bias is None else logits + bias).softmax(-1), value)


def embedded(model: Any, negative: Values) -> Tensor:
    """Return the input of the cross-attentions' keys for a negative prompt."""
    embeds: Tensor = negative["encoder_hidden_states"]
    if hasattr(model, "caption_projection"):
        projected: Tensor = model.caption_projection(embeds)
        return projected
    text: Tensor = model.condition_embedder.text_embedder(embeds)
    return text


def blocks_of(model: Any) -> Any:
    return model.transformer_blocks if hasattr(model, "transformer_blocks") else model.blocks


@present("HeliosPipeline", "SkyReelsV2DiffusionForcingPipeline", "LTXI2VLongMultiPromptPipeline")
def test_every_segment_has_the_negative_and_the_prompt_of_its_own_calls(name: str) -> None:
    case = long_case(name)
    nag, negative = negative_of(case, scale=4.0, tau=1.5, alpha=0.6)
    segments, _ = sample(case, nag)
    model = case.model.make().to(torch.float64)
    for block in blocks_of(model):
        block.attn2.processor = PlainNAG(nag, embedded(model, negative), negative.get("encoder_attention_mask"))
    texts = set()
    for segment in segments:
        for inputs, prediction in segment:
            texts.add(float(inputs["encoder_hidden_states"].sum()))
            torch.testing.assert_close(prediction, prediction_of(model(**inputs)), atol=1e-6, rtol=0)
    assert len(texts) == (SEGMENTS if name == LONG.pipeline else 1)


def plain_segment(
    model: Any, segment: list[tuple[Values, Tensor]], emag: EMAG, layers: tuple[int, ...]
) -> list[Tensor]:
    """Return the predictions under EMAG of a segment by itself: averages of queries begin with its first step.

    Queries are those of the video before their rotary embedding: outputs of `norm_q`.
    """
    norms = {layer: attention_of(blocks_of(model)[layer]).norm_q for layer in layers}
    live, replacement = dict[int, Tensor](), dict[int, Tensor]()
    handles = [norm.register_forward_hook(exchange(layer, live, replacement)) for layer, norm in norms.items()]
    averages, predictions = dict[int, Tensor](), []
    decay, scale = float(emag.decay), float(emag.scale)  # type: ignore[arg-type]
    for inputs, _ in segment:
        prediction = prediction_of(model(**inputs))
        queries = dict(live)
        averages = {n: decay * averages.get(n, q) + (1 - decay) * q for n, q in queries.items()}
        distances = {n: (averages[n] - queries[n]).abs().mean().item() for n in layers}
        largest = max(distances, key=distances.__getitem__)
        replacement[largest] = averages[largest]
        perturbed = prediction_of(model(**inputs))
        replacement.clear()
        predictions.append(perturbed + scale * (prediction - perturbed))
    for handle in handles:
        handle.remove()
    return predictions


def attention_of(block: Any) -> Any:
    return block.attn1 if hasattr(block, "attn1") else block.attn


def exchange(layer: int, live: dict[int, Tensor], replacement: dict[int, Tensor]) -> Callable[..., Tensor | None]:
    """Return a hook that records the output of a layer, or replaces it."""

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        if layer in replacement:
            return replacement[layer]
        live[layer] = output.clone()
        return None

    return hook


@present("HeliosPipeline", "HunyuanVideoFramepackPipeline", "LTXI2VLongMultiPromptPipeline")
def test_the_averages_of_every_segment_begin_with_its_first_step(name: str) -> None:
    case, layers = long_case(name), (0, 1)
    emag = EMAG(scale=1.5, decay=0.6, start=0, stop=1, layers=layers)
    segments, run = sample(case, emag)
    model = case.model.make().to(torch.float64)
    unguided = 0.0
    for segment in segments:
        expected = plain_segment(model, segment, emag, layers)
        for (inputs, prediction), plain in zip(segment, expected, strict=True):
            torch.testing.assert_close(prediction, plain, atol=1e-6, rtol=0)
            unguided = max(unguided, float((prediction - prediction_of(model(**inputs))).abs().max()))
    assert unguided > 1e-3
    assert [trace.steps for trace in run.traces] == [STEPS] * SEGMENTS
    assert [[choice.step for choice in trace.choices] for trace in run.traces] == [[*range(STEPS)]] * SEGMENTS


@present("HeliosPipeline", "HunyuanVideoFramepackPipeline", "LTXI2VLongMultiPromptPipeline")
def test_each_segment_has_a_trace_and_windows_of_steps_of_its_own(name: str) -> None:
    case = long_case(name)
    nag, _ = negative_of(case, stop=0.5)
    segments, run = sample(case, nag)
    assert [len(segment) for segment in segments] == [STEPS] * SEGMENTS
    assert [trace.steps for trace in run.traces] == [STEPS] * SEGMENTS
    assert [{record.step for record in trace} for trace in run.traces] == [{0, 1}] * SEGMENTS
    for trace, segment in zip(run.traces, segments, strict=True):
        model, scheduler = case.model.make().to(torch.float64), diffusers.FlowMatchEulerDiscreteScheduler()
        with guide(model, nag, scheduler=scheduler) as alone:
            scheduler.set_timesteps(STEPS)
            for (inputs, prediction), timestep in zip(segment, scheduler.timesteps, strict=True):
                assert torch.equal(prediction_of(model(**inputs)), prediction)
                scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
        assert list(alone.trace) == list(trace)


def test_diffusion_forcing_traces_all_calls_of_all_windows_at_no_step() -> None:
    """Its frames have steps of their own, so that a call is at no one step."""
    case = long_case("SkyReelsV2DiffusionForcingPipeline")
    nag, _ = negative_of(case)
    segments, run = sample(case, nag)
    calls = sum(len(segment) for segment in segments)
    layers = len(blocks_of(case.model.make()))
    assert calls >= STEPS * SEGMENTS
    assert sum(len(trace) for trace in run.traces) == calls * layers
    assert {record.step for trace in run.traces for record in trace} == {0}


def test_a_last_image_changes_the_first_section_of_framepack_and_is_guided() -> None:
    case = long_case("HunyuanVideoFramepackPipeline")
    ended = replace(case, call={**case.call, "last_image": picture(64, 64).rotate(90)})
    nag, _ = negative_of(case)
    (plain, _), (guided, run) = sample(ended), sample(ended, nag)
    assert len(run.traces) == SEGMENTS
    for before, after in zip(plain, guided, strict=True):
        assert (before[0][1] - after[0][1]).abs().max() > 1e-4
