"""Families whose calls write a key-value cache that others read: only the others are guided, in their pipelines."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.helpers.plain_cross_attention import States, Surgery
from tests.helpers.tiny_families import BY_NAME, TINY, Tiny, Values, cast, module_of, noise, row
from tests.helpers.tiny_pipelines import CASES
from vidguide import CFG, EMAG, NAG, PAG, VSF, guide
from vidguide.calls.outputs import prediction_of
from vidguide.transformer.family import families

FAR, ANIMATE = "AnyFlowFARTransformer3DModel", "WanAnimate2Transformer3DModel"
REFINER = "SanaWMLTX2RefinerTransformer3DModel"
Make = Callable[..., Any]
MAKERS: dict[str, Make] = {
    "NAG": lambda negative: NAG(scale=4.0, tau=1.5, alpha=0.5, negative_prompt_embeds=negative),
    "VSF": lambda negative: VSF(scale=1.5, offset=0.3, negative_prompt_embeds=negative),
}
every_method = pytest.mark.parametrize("method", MAKERS)
CACHED = [tiny for tiny in TINY if families()[tiny.key].reads_cache is not None]
every_cached = pytest.mark.parametrize("tiny", CACHED, ids=lambda tiny: tiny.name)


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in BY_NAME, reason=f"{name} is not in this release of diffusers")


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def embedded(name: str, text: Values) -> Callable[[Any], States]:
    """Return a function that returns a text as a transformer's blocks receive it, and its additive mask."""
    embeds, valid = text["encoder_hidden_states"], text.get("encoder_attention_mask")
    if name == FAR:
        return lambda model: (model.condition_embedder.text_embedder(embeds), None)
    if name == REFINER:
        mask = None if valid is None else -1e4 * (1 - valid)[:, None]
        return lambda model: (model.caption_projection(embeds), mask)
    padding = embeds.new_zeros(1, BY_NAME[ANIMATE].config["text_len"] - embeds.shape[1], embeds.shape[2])
    return lambda model: (model.text_embedding(torch.cat([embeds, padding], 1)), None)


def is_guided(arguments: Values) -> bool:
    """Return whether a call is guided, by the arguments of all three families."""
    if "kv_cache_flag" in arguments:
        return not arguments["kv_cache_flag"]["is_cache_step"]
    return arguments["kv_cache_mode"] in ("inject", "cached") and not arguments.get("is_uncondtion")


def with_text_attention(model: Any, name: str, guidance: Any, negative: Any, halved: bool = False) -> None:
    """Write a guidance into the text attentions of a model."""
    surgery = Surgery(guidance, negative(model), halved)
    for path, module in model.named_modules():
        if path.endswith(f".{name}"):
            module.processor = surgery
    model.register_forward_pre_hook(
        lambda module, args, arguments: setattr(surgery, "guided", is_guided(arguments)), with_kwargs=True
    )


def test_the_cached_families() -> None:
    assert {tiny.key for tiny in CACHED} == {FAR, ANIMATE, REFINER} & set(BY_NAME)


# A call that writes a cache


def writing_call(tiny: Tiny, inputs: Values) -> Values:
    """Return the call, as one that writes into its cache."""
    if tiny.key == FAR:
        video = {name: torch.cat([inputs[name]] * 2, 1)[:, :3] for name in ("hidden_states", "timestep", "r_timestep")}
        return {**inputs, **video, "kv_cache_flag": {"num_cached_chunks": 1, "is_cache_step": True}} | {
            "chunk_partition": [1, 2]
        }
    if tiny.key == ANIMATE:
        return {**inputs, "kv_cache_mode": "extract", "offset_grid_sizes": inputs["reference_grid_sizes"]}
    return {**inputs, "kv_cache_mode": "inject_and_capture_post_rope"}


def tensors_of(cache: Any) -> list[Tensor]:
    layers = list(cache.values()) if isinstance(cache, dict) else [vars(layer) for layer in cache.layer_caches]
    return [tensor for layer in layers for tensor in layer.values() if tensor is not None]


@every_method
@every_cached
def test_a_call_that_writes_the_cache_is_unguided_bitwise(tiny: Tiny, method: str) -> None:
    model, inputs, guidance = tiny.make(), tiny.inputs(2), MAKERS[method](tiny.negative())
    written = []
    for guidances in ((), (guidance,)):
        call = writing_call(tiny, copy.deepcopy(inputs))
        with guide(model, *guidances) as run:
            model(**call)
        written.append(tensors_of(call["kv_cache"]))
        assert not list(run.trace)
    assert all(torch.equal(*pair) for pair in zip(*written, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(written[0], tensors_of(inputs["kv_cache"]), strict=False))


@every_method
@every_cached
def test_a_guided_call_does_not_change_the_cache(tiny: Tiny, method: str) -> None:
    model, inputs = tiny.make(), tiny.inputs(2)
    before = copy.deepcopy(inputs["kv_cache"])
    unguided = prediction_of(model(**inputs))
    with guide(model, MAKERS[method](tiny.negative())):
        guided = prediction_of(model(**inputs))
    assert (guided - unguided).abs().max() > 1e-3
    assert all(torch.equal(*pair) for pair in zip(tensors_of(before), tensors_of(inputs["kv_cache"]), strict=True))
    assert torch.equal(prediction_of(model(**inputs)), unguided)


@every_cached
def test_the_cache_is_read_under_guidance(tiny: Tiny) -> None:
    model, guidance = tiny.make(), MAKERS["NAG"](tiny.negative())
    inputs, other = tiny.inputs(1), row(tiny.inputs(2), 1, 2)
    with guide(model, guidance):
        first = prediction_of(model(**inputs))
        second = prediction_of(model(**{**inputs, "kv_cache": other["kv_cache"]}))
    assert (first - second).abs().max() > 1e-4


@every_cached
@pytest.mark.parametrize("guidance", ["CFG", "EMAG", "PAG"])
def test_extra_passes_are_refused_before_any_step(tiny: Tiny, guidance: str) -> None:
    makers: dict[str, Make] = {
        "CFG": lambda: CFG(negative_prompt_embeds=tiny.negative()),
        "EMAG": lambda: EMAG(decay=0.5, scale=4),
        "PAG": lambda: PAG(layers=(1,)),
    }
    made = makers[guidance]()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="has a key-value cache"), guide(tiny.make(), made, scheduler=scheduler):
        pass


# AnyFlow-FAR


@needs(FAR)
@every_method
@pytest.mark.parametrize("cfg_on", [True, False], ids=["cfg", "no cfg"])
def test_far_equals_plain_surgery_in_its_pipeline(method: str, cfg_on: bool) -> None:
    """Three chunks, of which the first is compressed in the last one's cache."""
    case = next(case for case in CASES if case.pipeline == "AnyFlowFARPipeline")
    negative = cast(case.text_inputs(5), torch.float64)
    guidance = MAKERS[method](negative)
    guided, unguided = case.exact(cfg_on, guidance), case.exact(cfg_on)
    pipe = case.pipe(cfg_on)
    with_text_attention(pipe.transformer.double(), "attn2", guidance, embedded(FAR, negative), halved=cfg_on)
    expected = pipe(**case.arguments(pipe, cfg_on)).frames
    torch.testing.assert_close(guided, expected, atol=1e-6, rtol=0)
    assert (guided - unguided).abs().max() > 1e-3


@needs(FAR)
def test_far_is_restored_after_an_interrupted_run() -> None:
    case = next(case for case in CASES if case.pipeline == "AnyFlowFARPipeline")
    pipe = case.pipe(False)
    before = case.sample(pipe, False)

    def stop(*args: Any) -> Values:
        raise ZeroDivisionError("during a run")

    with pytest.raises(ZeroDivisionError):
        case.sample(pipe, False, MAKERS["NAG"](case.text_inputs(5)), callback_on_step_end=stop)
    assert torch.equal(case.sample(pipe, False), before)


# Wan-Animate-2


def animate_segments(model: Any, scale: float, *guidances: Any) -> Tensor:
    """Return the latents of two segments, by the steps of diffusers' modular pipeline that run the transformer."""
    from diffusers.modular_pipelines.modular_pipeline import BlockState
    from diffusers.modular_pipelines.wan_animate_2 import denoise

    pipe = SimpleNamespace(transformer=model, _execution_device=torch.device("cpu"))
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe.guider = diffusers.ClassifierFreeGuidance(guidance_scale=scale)
    steps = (denoise.WanAnimate2SegmentSchedulerResetStep(), denoise.WanAnimate2RefExtractStep())
    latents = []
    with guide(pipe, *guidances) if guidances else nullcontext():
        for segment in range(2):
            state = BlockState(**animate_state(segment))
            for step in (*steps, denoise.WanAnimate2SegmentDenoiseInner()):
                step(pipe, state, k=segment)
            latents.append(state.latents)
    return torch.stack(latents)


def animate_state(segment: int) -> Values:
    """Return what the steps before a segment's reference pass return: a frame of 2 x 3 tokens after the reference."""
    seed = 30 + 10 * segment
    return {
        "num_inference_steps": 2,
        "num_segments": 2,
        "driving_video_latents": noise(1, 4, 2, 4, 6, seed=seed),
        "driving_video_condition": noise(8, 2, 4, 6, seed=seed + 1),
        "condition_clip_context": noise(1, 3, 1280, seed=seed + 2),
        "prompt_ref_embeds": noise(1, 5, 16, seed=3),
        "prompt_embeds": noise(1, 7, 16, seed=2),
        "negative_prompt_embeds": noise(1, 6, 16, seed=6),
        "kv_cache": module_of(ANIMATE).WanAnimate2KVCache(3),
        "max_seq_len_ref": 12,
        "max_seq_len": 18,
        "grid_sizes_ref": torch.tensor([[2, 2, 3]]),
        "latents": noise(4, 3, 4, 6, seed=seed + 3),
        "reference_latents": noise(8, 3, 4, 6, seed=seed + 4),
        "segment_frame_length": 5,
        "height": 32,
        "width": 48,
        "generator": None,
        "denoiser_input_fields": {"encoder_hidden_states_image": noise(1, 3, 1280, seed=8)},
    }


@needs(ANIMATE)
@every_method
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_animate_equals_plain_surgery_in_its_steps(method: str, scale: float) -> None:
    tiny = BY_NAME[ANIMATE]
    negative = cast(tiny.negative(), torch.float64)
    guidance = MAKERS[method](negative)
    plain = tiny.make().double()
    guided, unguided = (animate_segments(tiny.make().double(), scale, *one) for one in ((guidance,), ()))
    with_text_attention(plain, "cross_attn", guidance, embedded(ANIMATE, negative))
    torch.testing.assert_close(guided, animate_segments(plain, scale), atol=1e-6, rtol=0)
    assert ((guided - unguided).flatten(1).abs().amax(1) > 1e-3).all()  # in both segments


@needs(ANIMATE)
def test_animate_takes_lists_of_samples() -> None:
    """As batches of one size; texts of different lengths are padded with zeros, as the forward does."""
    tiny = BY_NAME[ANIMATE]
    model, inputs, negative = tiny.make(), tiny.inputs(2), tiny.negative()
    prompts = [inputs["encoder_hidden_states"][0], inputs["encoder_hidden_states"][1, :5]]
    padded = torch.stack([prompts[0], torch.cat([prompts[1], prompts[1].new_zeros(2, 16)])])
    lists = {name: list(inputs[name]) for name in ("hidden_states", "condition_latents")}
    with guide(model, MAKERS["NAG"](negative)):
        listed = prediction_of(model(**{**inputs, **lists, "encoder_hidden_states": prompts}))
        batched = prediction_of(model(**{**inputs, "encoder_hidden_states": padded}))
        assert torch.equal(listed, batched)
        lists["hidden_states"][1] = lists["hidden_states"][1].mT
        with pytest.raises(ValueError, match="hidden_states: samples of the sizes"):
            model(**{**inputs, **lists})


# SANA-WM's refiner


class Tokenizer:
    """Stub of Gemma's tokenizer: a token for each letter."""

    def __call__(self, text: str | list[str], max_length: int = 0, **settings: Any) -> SimpleNamespace:
        if isinstance(text, str):
            return SimpleNamespace(input_ids=[ord(letter) for letter in text])
        ids = torch.tensor([[0] * (max_length - len(line)) + [ord(letter) for letter in line] for line in text])
        return SimpleNamespace(input_ids=ids, attention_mask=(ids > 0).long())


class TextEncoder(torch.nn.Module):
    """Stub of Gemma: two layers of 8 channels for each token."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.features = noise(128, 16, seed=4).double()

    def forward(self, input_ids: Tensor, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=self.features[input_ids].chunk(2, -1))


class Connectors(torch.nn.Module):
    """Stub of LTX-2's connectors."""

    dtype, device = torch.float64, torch.device("cpu")

    def forward(self, embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return embeds.flip(-1), embeds, mask.to(embeds)


PROMPT, RED, VIDEO = "a cat", "red", (1, 4, 6, 2, 3)


def refiner() -> Any:
    pipe = diffusers.SanaWMLTX2Refiner(
        transformer=BY_NAME[REFINER].make().double(),
        connectors=Connectors(),
        tokenizer=Tokenizer(),
        text_encoder=TextEncoder(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
        text_max_sequence_length=7,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def refine(pipe: Any, **call: Any) -> Tensor:
    """Return a clip of six frames: the first as it is, then blocks of two, each under two frames of history."""
    settings = dict(fps=16, block_size=2, kv_max_frames=3, output_type="latent")
    latents: Tensor = pipe(noise(*VIDEO, seed=1), PROMPT, **settings, **call)
    return latents


@needs(REFINER)
@every_method
def test_the_refiner_equals_plain_surgery_in_its_pipeline(method: str) -> None:
    pipe, plain = refiner(), refiner()
    names = ("encoder_hidden_states", "encoder_attention_mask")
    encoded = pipe._encode_prompt(RED, device=torch.device("cpu"), dtype=torch.float64)
    negative = dict(zip(names, encoded, strict=True))
    guidance = MAKERS[method](negative)
    unguided = refine(pipe)
    with guide(pipe, guidance) as run:
        guided = refine(pipe)
    with_text_attention(plain.transformer, "attn2", guidance, embedded(REFINER, negative))
    torch.testing.assert_close(guided, refine(plain), atol=1e-6, rtol=0)
    assert (guided - unguided).abs().max() > 1e-3
    assert [trace.steps for trace in run.traces if len(trace)] == [3, 3, 3]
    assert torch.equal(refine(pipe), unguided)


@needs(REFINER)
def test_the_refiner_encodes_the_negative_of_the_guidance_and_of_the_call() -> None:
    pipe = refiner()
    names = ("encoder_hidden_states", "encoder_attention_mask")
    encoded = pipe._encode_prompt(RED, device=torch.device("cpu"), dtype=torch.float64)
    outputs = []
    for guidance, call in (
        (NAG(negative_prompt_embeds=dict(zip(names, encoded, strict=True))), {}),
        (NAG(negative_prompt=RED), {}),
        (NAG(), {"negative_prompt": RED}),
        (NAG(), {"negative_prompt_embeds": encoded[0], "negative_prompt_attention_mask": encoded[1]}),
    ):
        with guide(pipe, guidance):
            outputs.append(refine(pipe, **call))
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    with pytest.raises(ValueError, match="must have at most 7 tokens"), guide(pipe, NAG(negative_prompt=RED * 3)):
        refine(pipe)
