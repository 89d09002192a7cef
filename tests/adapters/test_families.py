"""Laws that every registered family satisfies."""

import ast
import functools
import inspect
import re
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from packaging.version import Version
from torch import Tensor

from tests.helpers.family_calls import METHODS, Make, nag, other_video, sample_clips, vsf
from tests.helpers.snapshots import snapshots_equal
from tests.helpers.tiny_families import ALL, BY_NAME, TINY, Tiny, Values, cast, concatenate, packed_call, row
from vidguide import CFG, EMAG, NAG, PAG, STG, guide, locate
from vidguide.attention.sites import fixed_self_attention
from vidguide.calls.guided_model import guided_model
from vidguide.calls.outputs import prediction_of
from vidguide.guidances.base import Guidance
from vidguide.guiding.locate import listing
from vidguide.transformer.block_replay import BlockReplay
from vidguide.transformer.family import families, family_of, refused
from vidguide.transformer.token_grid import grid, one_token

every_family = pytest.mark.parametrize("tiny", TINY, ids=BY_NAME)
batched = pytest.mark.parametrize(
    "tiny", [tiny for tiny in TINY if families()[tiny.key].cfg == "batched"], ids=lambda t: t.name
)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@functools.cache
def model_of(tiny_name: str, dtype: torch.dtype = torch.float32) -> Any:
    return BY_NAME[tiny_name].make().to(dtype)


def predict(tiny: Tiny, inputs: Values, *guidances: Guidance) -> Tensor:
    model = model_of(tiny.name, inputs["hidden_states"].dtype)
    with guide(model, *guidances):
        return prediction_of(model(**inputs))


with_cfg = pytest.mark.parametrize(
    "tiny", [t for t in TINY if families()[t.key].reads_cache is None], ids=lambda t: t.name
)
every_negative = pytest.mark.parametrize("make", [nag, vsf], ids=["NAG", "VSF"])


def test_every_registered_family_has_a_tiny_model() -> None:
    assert {tiny.key for tiny in ALL} == set(families())


@every_family
def test_neutral_settings_do_not_change_the_output_bitwise(tiny: Tiny) -> None:
    model, inputs = model_of(tiny.name), tiny.inputs(2)
    unguided = prediction_of(model(**inputs))
    for guidances in ((), (nag(tiny.negative(), scale=1),), (nag(tiny.negative(), alpha=0),)):
        assert torch.equal(predict(tiny, inputs, *guidances), unguided)


@every_family
def test_the_prompt_as_negative_prompt_does_not_change_the_output(tiny: Tiny) -> None:
    inputs = tiny.exact(tiny.inputs(2))
    prompt = {name: inputs[name] for name in tiny.negative()}
    tiny.assert_equal(predict(tiny, inputs, nag(prompt)), predict(tiny, inputs))


@every_family
def test_vsf_with_a_large_offset_does_not_change_the_output(tiny: Tiny) -> None:
    inputs = tiny.exact(tiny.inputs(2))
    guided = predict(tiny, inputs, vsf(tiny.exact(tiny.negative()), offset=1e4))
    tiny.assert_equal(guided, predict(tiny, inputs))


@every_negative
@every_family
def test_a_different_negative_changes_every_sample(tiny: Tiny, make: Make) -> None:
    inputs = tiny.inputs(2)
    unguided, guided = predict(tiny, inputs), predict(tiny, inputs, make(tiny.negative()))
    assert guided.isfinite().all()
    assert guided.shape == unguided.shape
    assert all((guided - unguided).abs().amax(tuple(range(1, unguided.ndim))) > 1e-3)  # in every sample


HISTORY, REFINER = "HunyuanVideoFramepackTransformer3DModel", "SanaWMLTX2RefinerTransformer3DModel"
NO_FRAMES = {  # its queries include history frames; its tokens are packed without their grid
    HISTORY: "73 tokens attend here where the clip's grid has 3 x 4 x 4",
    REFINER: "this pipeline passes coordinates of its tokens",
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [nag, partial(nag, norm="frame"), partial(nag, norm="clip"), vsf])
@every_family
def test_a_batch_of_two_equals_two_single_samples(tiny: Tiny, make: Make) -> None:
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    if tiny.key in NO_FRAMES and getattr(make(negative), "norm", None) == "frame":
        with pytest.raises(ValueError, match=NO_FRAMES[tiny.key]):
            predict(tiny, inputs, make(negative))
        return
    batched = predict(tiny, inputs, make(negative))
    single = [predict(tiny, row(inputs, i, 2), make(row(negative, i, 2))) for i in range(2)]
    tiny.assert_equal(batched, torch.cat(single))


@every_negative
@every_family
def test_a_single_negative_is_broadcast_over_the_batch(tiny: Tiny, make: Make) -> None:
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(1))
    repeated = {name: torch.cat([value] * 2) if value.ndim > 1 else value for name, value in negative.items()}
    tiny.assert_equal(predict(tiny, inputs, make(negative)), predict(tiny, inputs, make(repeated)))


@every_negative
@every_family
def test_exit_restores_the_model_also_after_an_error(tiny: Tiny, snapshot: Any, make: Make) -> None:
    model, inputs = tiny.make(), tiny.inputs(2)
    before, unguided = snapshot(model), prediction_of(model(**inputs))
    with guide(model, make(tiny.negative())):
        model(**inputs)
    assert snapshots_equal(snapshot(model), before)
    last_path = [location.path for location in locate(model)][-1]
    handle = model.get_submodule(last_path).register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError), guide(model, make(tiny.negative())):
        model(**inputs)
    handle.remove()
    assert snapshots_equal(snapshot(model), before)
    assert torch.equal(prediction_of(model(**inputs)), unguided)


def fail(*args: Any) -> None:
    raise ZeroDivisionError("during a call")


@every_negative
@every_family
def test_padding_of_the_negative_does_not_change_the_output(tiny: Tiny, make: Make) -> None:
    family, inputs, negative = families()[tiny.key], tiny.exact(tiny.inputs(1)), tiny.exact(tiny.negative())
    unpadded = dict(negative)
    for name, embeds in family.text_masks.items():
        length = int(negative[name].sum())
        assert length < negative[name].shape[1]
        unpadded[name], unpadded[embeds] = negative[name][:, :length], negative[embeds].narrow(-2, 0, length)
    tiny.assert_equal(predict(tiny, inputs, make(unpadded)), predict(tiny, inputs, make(negative)))


@every_negative
@pytest.mark.parametrize("tiny", [tiny for tiny in TINY if tiny.bfloat16], ids=lambda tiny: tiny.name)
def test_bfloat16_predictions_are_finite(tiny: Tiny, make: Make) -> None:
    inputs, negative = (cast(values, torch.bfloat16) for values in (tiny.inputs(1), tiny.negative()))
    assert predict(tiny, inputs, make(negative)).isfinite().all()


@every_negative
@every_family
def test_guidance_acts_in_the_given_layers_only(tiny: Tiny, make: Make) -> None:
    inputs, negative = tiny.inputs(1), tiny.negative()
    model = model_of(tiny.name)
    with guide(model, make(negative, layers=(1,))) as run:
        first = prediction_of(model(**inputs))
    assert {record.layer for record in run.trace} == {1}
    every = predict(tiny, inputs, make(negative))
    assert not torch.allclose(first, every, atol=1e-4)


@every_negative
@batched
def test_only_the_cond_samples_of_a_cfg_batch_are_guided(tiny: Tiny, make: Make) -> None:
    model, negative = tiny.make().to(tiny.dtype), tiny.exact(tiny.negative(1))
    cond = tiny.exact(tiny.inputs(2))
    uncond = {**cond, **tiny.exact(tiny.text(2, 7, 6))}
    pipe = SimpleNamespace(transformer=model, do_classifier_free_guidance=True)
    with guide(pipe, make(negative)):
        branches = prediction_of(model(**concatenate(uncond, cond))).chunk(2)
    tiny.assert_equal(branches[0], predict(tiny, uncond))
    tiny.assert_equal(branches[1], predict(tiny, cond, make(negative)))


SELF_GUIDANCES = [
    EMAG(decay=0.5, select=(1,), start=0.0, stop=1.0, scale=4),
    PAG(layers=(1,), scale=2),
    STG(layers=(1,), scale=2, mode="residual"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("guidance", SELF_GUIDANCES, ids=["EMAG", "PAG", "STG"])
@every_family
def test_a_perturbed_pass_with_block_replay_equals_the_full_pass(
    tiny: Tiny, guidance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, first, inputs = tiny.make(), tiny.inputs(2), tiny.inputs(2)
    inputs["hidden_states"] = inputs["hidden_states"].flip(0)
    unguided = prediction_of(model(**inputs))
    if fixed := fixed_self_attention(families()[tiny.key]):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        with pytest.raises(ValueError, match=fixed), guide(model, guidance, scheduler=scheduler):
            pass
        return
    shortened = predict_second_step(model, first, inputs, guidance, nag(tiny.negative()))
    monkeypatch.setattr(BlockReplay, "starting_at", lambda self, first, batch: nullcontext())
    full = predict_second_step(model, first, inputs, guidance, nag(tiny.negative()))
    assert torch.equal(shortened, full)
    assert (shortened - unguided).abs().max() > 1e-3
    guided = predict(tiny, inputs, nag(tiny.negative()))
    assert (shortened - guided).abs().max() > 1e-3


@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", METHODS)
@every_family
def test_every_guidance_acts_or_raises_as_the_family_table_says(tiny: Tiny, method: str) -> None:
    row = next(row for row in listing() if tiny.key in row["transformers"])
    (entry,) = (value for column, value in row.items() if method in column.split(", "))
    model, guidance = model_of(tiny.name), METHODS[method](tiny.negative())
    first, second = tiny.inputs(2), tiny.inputs(2)
    second["hidden_states"] = second["hidden_states"].flip(0)
    if entry != "tested":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        with pytest.raises(ValueError, match=entry.removeprefix("no: ")), guide(model, guidance, scheduler=scheduler):
            pass
        return
    guided, unguided = (predict_second_step(model, first, second, *guidances) for guidances in ((guidance,), ()))
    assert guided.isfinite().all()
    assert (guided - unguided).abs().max() > 1e-4


@with_cfg
def test_cfg_equals_its_equation(tiny: Tiny) -> None:
    """The Wan Animate pipeline passes a black face to its unconditional branch."""
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    black = {name: torch.full_like(value, -1) for name, value in inputs.items() if name == "face_pixel_values"}
    cond, uncond = predict(tiny, inputs), predict(tiny, {**inputs, **negative, **black})
    guided = predict(tiny, inputs, CFG(scale=3, negative_prompt_embeds=negative))
    tiny.assert_equal(guided, uncond + 3 * (cond - uncond))


@batched
def test_cfg_equals_cfg_in_one_batch(tiny: Tiny) -> None:
    if families()[tiny.key].reads_cache is not None:
        return  # refused, as test_every_guidance_acts_or_raises_as_the_family_table_says
    cond, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.text(2, 7, 6))
    model = model_of(tiny.name, tiny.dtype)
    branches = prediction_of(model(**concatenate({**cond, **negative}, cond))).chunk(2)
    guided = predict(tiny, cond, CFG(scale=3, negative_prompt_embeds=negative))
    tiny.assert_equal(guided, branches[0] + 3 * (branches[1] - branches[0]))


def predict_second_step(model: Any, first: Values, second: Values, *guidances: Guidance) -> Tensor:
    """Return the prediction of the second of two steps."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with guide(model, *guidances, scheduler=scheduler):
        scheduler.set_timesteps(2)
        prediction = prediction_of(model(**first))
        scheduler.step(prediction, scheduler.timesteps[0], prediction)
        return prediction_of(model(**second))


@pytest.mark.sampled(2)
@every_family
def test_earlier_runs_do_not_affect_a_run_bitwise(tiny: Tiny) -> None:
    """Earlier runs: a `guide` with another negative; in the same `guide` an interrupted run of a smaller clip and a
    complete run of another prompt. Prediction and trace equal those of a new model."""
    self_guidances = [] if fixed_self_attention(families()[tiny.key]) else SELF_GUIDANCES
    guidances, earlier_guidances = (
        (nag(text), *self_guidances) for text in (tiny.negative(), tiny.text(1, tiny.length, 8))
    )
    model, inputs, prompt = tiny.make(), tiny.inputs(2), tiny.text(2, 7, 6)
    earlier, _ = sample_clips(model, earlier_guidances, inputs)
    again = sample_clips(
        model, guidances, smaller_clip(tiny, inputs), {**inputs, **prompt, **other_video(inputs)}, inputs
    )
    fresh = sample_clips(tiny.make(), guidances, inputs)
    assert torch.equal(again[0], fresh[0])
    assert again[1] == fresh[1]
    assert (earlier - fresh[0]).abs().max() > 1e-4


def smaller_clip(tiny: Tiny, inputs: Values) -> Values:
    """Return a call with a clip of one token, or of one frame for Framepack."""
    small = one_token(families()[tiny.key], model_of(tiny.name), inputs, tiny.text(1, 7, 6))
    if families()[tiny.key].joint and "image_rotary_emb" in inputs:
        small["image_rotary_emb"] = tuple(part[:1] for part in inputs["image_rotary_emb"])
    if "position_ids" in inputs:
        return {**inputs, **packed_call(1, torch.ones(7), frames=1), **tiny.text(1, 7, 6)}
    if tiny.key == "WanAnimate2Transformer3DModel":
        frame = {name: inputs[name][:1, :, :1] for name in ("hidden_states", "condition_latents")}
        return {**row(inputs, 0, 2), **frame, "seq_len": 6, **tiny.text(1, 7, 6)}
    if tiny.key == HISTORY:
        small |= {"hidden_states": inputs["hidden_states"][:1, :, :1], "indices_latents": torch.arange(1)}
    return small


@pytest.mark.sampled(2)
@pytest.mark.parametrize("guidance", SELF_GUIDANCES, ids=["EMAG", "PAG", "STG"])
@batched
def test_a_perturbed_pass_runs_on_the_cond_samples_of_a_cfg_batch_only(tiny: Tiny, guidance: Any) -> None:
    if fixed_self_attention(families()[tiny.key]):
        return
    model, cond, negative = tiny.make().to(tiny.dtype), tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative())
    uncond = {**cond, **tiny.exact(tiny.text(2, 7, 6))}
    rows: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda model, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    pipe = SimpleNamespace(transformer=model, do_classifier_free_guidance=True)
    pipe.scheduler = scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with guide(pipe, guidance, nag(negative)):
        scheduler.set_timesteps(2)
        for step in range(2):
            cond["hidden_states"], uncond["hidden_states"] = (v["hidden_states"].flip(0) for v in (cond, uncond))
            branches = prediction_of(model(**concatenate(uncond, cond))).chunk(2)
            scheduler.step(branches[0], scheduler.timesteps[step], branches[0])
    hook.remove()
    assert rows[-2:] == [4, 2]
    first = {**cond, "hidden_states": cond["hidden_states"].flip(0)}
    guided = predict_second_step(model, first, cond, guidance, nag(negative))
    added = guided - predict_second_step(model, first, cond, nag(negative))
    # A correction that CFG does not scale moves both branches; EMAG's moves the conditional one.
    tiny.assert_equal(branches[0], predict(tiny, uncond) + (0 if isinstance(guidance, EMAG) else added))
    tiny.assert_equal(branches[1], guided)


def test_the_second_call_in_a_step_is_unconditional() -> None:
    tiny = BY_NAME["CosmosTransformer3DModel"]
    model, inputs = tiny.make(), tiny.inputs(1)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = SimpleNamespace(transformer=model, scheduler=scheduler, do_classifier_free_guidance=True)
    unguided, guided = predict(tiny, inputs), predict(tiny, inputs, nag(tiny.negative()))
    with guide(pipe, nag(tiny.negative())):
        scheduler.set_timesteps(2)
        for timestep in scheduler.timesteps:
            torch.testing.assert_close(prediction_of(model(**inputs)), guided)
            torch.testing.assert_close(prediction_of(model(**inputs)), unguided)
            scheduler.step(unguided, timestep, unguided)


MODULAR = {  # only in a modular pipeline, or in SanaWMLTX2Refiner, which have no encode_prompt
    *("MiniMaxH3Transformer3DModel", "WanAnimate2Transformer3DModel", "SanaWMLTX2RefinerTransformer3DModel"),
}
IMAGES_ONLY = {"Kandinsky5I2IPipeline"}  # makes no video, and encodes a prompt together with the image


def pipelines_of(transformer: str) -> list[str]:
    """Return the names of diffusers' pipelines whose `transformer` is of this class."""
    classes = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Pipeline")}
    annotations = {name: str(inspect.signature(kind.__init__)) for name, kind in classes.items()}
    pattern = re.compile(rf"transformer: [^,]*\b{transformer}\b")
    return sorted(name for name, text in annotations.items() if pattern.search(text) and name not in IMAGES_ONLY)


@pytest.mark.parametrize("transformer", [key for key in families() if hasattr(diffusers, key) and key not in MODULAR])
def test_a_negative_prompt_guides_as_its_embeddings(transformer: str) -> None:
    tiny = BY_NAME[transformer]
    pipe, inputs = FakePipeline(getattr(diffusers, pipelines_of(transformer)[0]), tiny), tiny.inputs(1)
    with guide(pipe, NAG(negative_prompt="blurry")):
        by_words = prediction_of(pipe.transformer(**inputs))
    torch.testing.assert_close(by_words, predict(tiny, inputs, nag(tiny.text(1, 7, 5))))


ENCODERS = [(key, name) for key in families() if hasattr(diffusers, key) for name in pipelines_of(key)]


@pytest.mark.parametrize(("transformer", "name"), ENCODERS)
def test_a_negative_prompt_is_encoded_by_every_pipelines_encoder(transformer: str, name: str) -> None:
    tiny = BY_NAME[transformer]
    pipe, encode = FakePipeline(getattr(diffusers, name), tiny), families()[transformer].encode
    assert encode is not None
    encoded = encode(pipe, {"prompt": ["blurry"]}, tiny.inputs(1))
    for key, expected in tiny.text(1, 7, 5).items():
        assert torch.equal(encoded[key].reshape(expected.shape), expected)
    if name not in ("HunyuanVideoImageToVideoPipeline", "HunyuanSkyreelsImageToVideoPipeline"):  # image tokens
        assert pipe.requested_length in (None, 7)  # the prompt's length, if encode_prompt has such a parameter


class FakePipeline:
    """Pipeline whose encode_prompt has the signature and result order of the real one and returns noise for 7
    tokens."""

    def __init__(self, real: Any, tiny: Tiny) -> None:
        self.transformer, self.real, self.tiny = tiny.make(), real, tiny
        self.vae_scale_factor_spatial = 8
        self.requested_length: int | None = None
        encode: Any = functools.partial(self._encode)
        encode.__signature__ = inspect.signature(real.encode_prompt.__get__(self))
        self.encode_prompt = encode

    def _encode(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self.requested_length = (
            inspect.signature(self.real.encode_prompt).bind(self, *args, **kwargs).arguments.get("max_sequence_length")
        )
        tree = ast.parse(textwrap.dedent(inspect.getsource(self.real.encode_prompt)))
        results = [ast.unparse(node.value) for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value]
        text = self.tiny.text(1, 7, 5)
        if self.tiny.key == "AllegroTransformer3DModel":  # its pipeline adds an axis afterwards
            text["encoder_hidden_states"] = text["encoder_hidden_states"].squeeze(1)
        longest = max(reversed(results), key=lambda result: result.count(","))
        return tuple(text.get(RESULT_NAMES.get(result, "")) for result in longest.strip("()").split(", "))

    def connectors(self, embeds: Tensor, mask: Tensor, padding_side: str) -> tuple[Tensor, Tensor, Tensor]:
        return embeds, self.tiny.text(1, 7, 5)["audio_encoder_hidden_states"], mask


RESULT_NAMES = {  # names of encode_prompt's results as arguments of the transformer
    "prompt_embeds": "encoder_hidden_states",
    "masked_prompt_embeds": "encoder_hidden_states",
    "prompt_embeds_qwen": "encoder_hidden_states",
    "prompt_attention_mask": "encoder_attention_mask",
    "prompt_embeds_mask": "encoder_attention_mask",
    "prompt_embeds_2": "encoder_hidden_states_2",
    "prompt_embeds_mask_2": "encoder_attention_mask_2",
    "pooled_prompt_embeds": "pooled_projections",
    "prompt_embeds_clip": "pooled_projections",
    "negative_prompt_embeds": "encoder_hidden_states",  # SANA-WM encodes the negative prompt together with a prompt
    "negative_prompt_attention_mask": "mask",
}


def test_every_family_has_a_pipeline_that_encodes_prompts() -> None:
    encoded = {transformer for transformer, _ in ENCODERS}
    assert encoded | MODULAR & set(BY_NAME) == {key for key in families() if hasattr(diffusers, key)}


@every_family
def test_every_attention_site_is_located(tiny: Tiny) -> None:
    locations = locate(model_of(tiny.name))
    roles = {location.role for location in locations}
    assert roles in ({"self", "text"}, {"joint"}, {"joint", "text"})
    assert all(location.heads == 2 or tiny.key.startswith("Kandinsky") for location in locations)


@every_family
def test_frames_are_consecutive_tokens_of_the_grid(tiny: Tiny) -> None:
    """A change of the first frame changes the first H x W tokens at the first block; norms by frame rely on this
    order."""
    model, inputs, family = tiny.make(), tiny.inputs(1), families()[tiny.key]
    if tiny.key == REFINER:
        with pytest.raises(ValueError, match=NO_FRAMES[REFINER]):
            grid(family, model, inputs)
        return
    frames, height, width = grid(family, model, inputs)
    changed_inputs = {**inputs, "hidden_states": inputs["hidden_states"].clone()}
    axis = "BLC".index("L") if "L" in family.layout else family.layout.index("F")
    first = height * width if "L" in family.layout else inputs["hidden_states"].shape[axis] // frames
    changed_inputs["hidden_states"].narrow(axis, 0, first).add_(1)
    block_inputs: list[Tensor] = []
    block = model.get_submodule(family.blocks[0])[0]
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: block_inputs.append((args or tuple(kwargs.values()))[0].clone()), with_kwargs=True
    )
    for values in (inputs, changed_inputs):
        model(**values)
    handle.remove()
    changed = (block_inputs[0] != block_inputs[1]).any(-1).flatten()[-frames * height * width :]
    assert changed.tolist() == [True] * (height * width) + [False] * ((frames - 1) * height * width)


@pytest.mark.parametrize(
    "tiny", [t for t in TINY if not families()[t.key].joint and t.key != REFINER], ids=lambda tiny: tiny.name
)
def test_the_token_grid_has_one_token_per_video_query(tiny: Tiny) -> None:
    model, inputs, family = tiny.make(), tiny.inputs(2), families()[tiny.key]
    frames, height, width = grid(family, model, inputs)
    site = guided_model(model, False)[0].text_sites[0]
    counts = []
    handle = site.attention.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append((args or tuple(kwargs.values()))[0].shape), with_kwargs=True
    )
    model(**inputs)
    handle.remove()
    assert counts[0][0] * counts[0][1] == 2 * frames * height * width


def test_tables_in_readme_and_contributing_match_the_declarations() -> None:
    """`python benchmarks/families.py` writes the tables."""
    script = Path(__file__).parents[2] / "benchmarks" / "families.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", sorted(families()))
def test_a_family_exists_from_its_first_diffusers_release_on(name: str) -> None:
    since = Version(families()[name].min_diffusers)
    assert hasattr(diffusers, name) == (Version(diffusers.__version__).release >= since.release)


@pytest.mark.parametrize("name", sorted(refused()))
def test_an_unsupported_transformer_raises_with_the_reason(name: str) -> None:
    """The class is recognised by its name and need not be installed."""
    model = type(name, (torch.nn.Module,), {})()
    for function in (locate, lambda model: guide(model).__enter__()):
        with pytest.raises(LookupError, match=f"{name} is known and not supported: .{{30}}"):
            function(model)
    assert name not in families()


def test_a_cosmos_model_with_image_context_raises() -> None:
    model = SimpleNamespace(config=SimpleNamespace(img_context_dim_in=8))
    paired = type("CosmosTransformer3DModel", (SimpleNamespace,), {})(**vars(model))
    with pytest.raises(LookupError, match="a pair of text and image context"):
        family_of(paired)


def test_a_transformer_declared_twice_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    wan = families()["WanTransformer3DModel"]
    monkeypatch.setattr("vidguide.transformer.family.adapters", lambda: [SimpleNamespace(FAMILIES=(wan, wan))])
    with pytest.raises(ValueError, match="WanTransformer3DModel: declared by Wan and by Wan"):
        families.__wrapped__()


def test_missing_and_unknown_text_inputs_are_named_in_the_error() -> None:
    tiny = BY_NAME["HunyuanVideo15Transformer3DModel"]
    negative = tiny.negative()
    with pytest.raises(ValueError, match="encoder_hidden_states_2 is missing"):
        predict(tiny, tiny.inputs(1), NAG(negative_prompt_embeds=negative["encoder_hidden_states"]))
    with pytest.raises(ValueError, match="not \\['prompt'\\]"):
        predict(tiny, tiny.inputs(1), nag({**negative, "prompt": negative["encoder_hidden_states"]}))
