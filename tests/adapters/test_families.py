"""Every registered family, held to the same laws."""

import ast
import functools
import inspect
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

from tests.helpers.family_calls import METHODS, Make, moved, nag, samplings, vsf
from tests.helpers.snapshots import same
from tests.helpers.tiny_families import ALL, BY_NAME, TINY, Tiny, Values, cast, row
from vidguide import CFG, EMAG, NAG, PAG, STG, guide, locate
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
def _quick() -> Any:
    with torch.no_grad():
        yield


@functools.cache
def model_of(tiny_name: str, dtype: torch.dtype = torch.float32) -> Any:
    return BY_NAME[tiny_name].make().to(dtype)


def ask(tiny: Tiny, inputs: Values, *guidances: Guidance) -> Tensor:
    model = model_of(tiny.name, inputs["hidden_states"].dtype)
    with guide(model, *guidances):
        return prediction_of(model(**inputs))


every_negative = pytest.mark.parametrize("make", [nag, vsf], ids=["NAG", "VSF"])


def test_every_registered_family_is_tested() -> None:
    assert {tiny.key for tiny in ALL} == set(families())


@every_family
def test_without_effect_the_output_is_bitwise_the_same(tiny: Tiny) -> None:
    model, inputs = model_of(tiny.name), tiny.inputs(2)
    plain = prediction_of(model(**inputs))
    for guidances in ((), (nag(tiny.negative(), scale=1),), (nag(tiny.negative(), alpha=0),)):
        assert torch.equal(ask(tiny, inputs, *guidances), plain)


@every_family
def test_a_negative_equal_to_the_prompt_is_the_identity(tiny: Tiny) -> None:
    inputs = tiny.exact(tiny.inputs(2))
    prompt = {name: inputs[name] for name in tiny.negative()}
    tiny.agree(ask(tiny, inputs, nag(prompt)), ask(tiny, inputs))


@every_family
def test_a_negative_that_gets_no_attention_is_the_identity(tiny: Tiny) -> None:
    inputs = tiny.exact(tiny.inputs(2))
    unseen = ask(tiny, inputs, vsf(tiny.exact(tiny.negative()), offset=1e4))
    tiny.agree(unseen, ask(tiny, inputs))


@every_negative
@every_family
def test_another_negative_changes_the_output(tiny: Tiny, make: Make) -> None:
    inputs = tiny.inputs(2)
    plain, guided = ask(tiny, inputs), ask(tiny, inputs, make(tiny.negative()))
    assert guided.isfinite().all()
    assert guided.shape == plain.shape
    assert all((guided - plain).abs().amax(tuple(range(1, plain.ndim))) > 1e-3)  # of every sample


HISTORY = "HunyuanVideoFramepackTransformer3DModel"  # its queries are more than the clip's frames


@pytest.mark.parametrize("make", [nag, partial(nag, norm="frame"), partial(nag, norm="clip"), vsf])
@every_family
def test_a_batch_of_two_is_two_of_one(tiny: Tiny, make: Make) -> None:
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    if tiny.key == HISTORY and getattr(make(negative), "norm", None) == "frame":
        with pytest.raises(ValueError, match="73 tokens attend here where the clip's grid has 3 x 4 x 4"):
            ask(tiny, inputs, make(negative))
        return
    together = ask(tiny, inputs, make(negative))
    apart = [ask(tiny, row(inputs, i, 2), make(row(negative, i, 2))) for i in range(2)]
    tiny.agree(together, torch.cat(apart))


@every_negative
@every_family
def test_one_negative_serves_every_prompt(tiny: Tiny, make: Make) -> None:
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(1))
    twice = {name: torch.cat([value] * 2) if value.ndim > 1 else value for name, value in negative.items()}
    tiny.agree(ask(tiny, inputs, make(negative)), ask(tiny, inputs, make(twice)))


@every_negative
@every_family
def test_nothing_is_left_behind(tiny: Tiny, snapshot: Any, make: Make) -> None:
    model, inputs = tiny.make(), tiny.inputs(2)
    before, plain = snapshot(model), prediction_of(model(**inputs))
    with guide(model, make(tiny.negative())):
        model(**inputs)
    assert same(snapshot(model), before)
    last = [location.path for location in locate(model)][-1]
    handle = model.get_submodule(last).register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError), guide(model, make(tiny.negative())):
        model(**inputs)
    handle.remove()
    assert same(snapshot(model), before)
    assert torch.equal(prediction_of(model(**inputs)), plain)


def fail(*args: Any) -> None:
    raise ZeroDivisionError("in the middle of a call")


@every_negative
@every_family
def test_padding_of_a_negative_changes_nothing(tiny: Tiny, make: Make) -> None:
    family, inputs, negative = families()[tiny.key], tiny.exact(tiny.inputs(1)), tiny.exact(tiny.negative())
    cut = dict(negative)
    for name, embeds in family.text_masks.items():
        length = int(negative[name].sum())
        assert length < negative[name].shape[1]
        cut[name], cut[embeds] = negative[name][:, :length], negative[embeds].narrow(-2, 0, length)
    tiny.agree(ask(tiny, inputs, make(cut)), ask(tiny, inputs, make(negative)))


@every_negative
@pytest.mark.parametrize("tiny", [tiny for tiny in TINY if tiny.bfloat16], ids=lambda tiny: tiny.name)
def test_in_bfloat16_it_is_finite(tiny: Tiny, make: Make) -> None:
    inputs, negative = (cast(values, torch.bfloat16) for values in (tiny.inputs(1), tiny.negative()))
    assert ask(tiny, inputs, make(negative)).isfinite().all()


@every_negative
@every_family
def test_it_acts_in_the_layers_it_is_asked_to(tiny: Tiny, make: Make) -> None:
    inputs, negative = tiny.inputs(1), tiny.negative()
    model = model_of(tiny.name)
    with guide(model, make(negative, layers=(1,))) as run:
        first = prediction_of(model(**inputs))
    assert {record.layer for record in run.trace} == {1}
    every = ask(tiny, inputs, make(negative))
    assert not torch.allclose(first, every, atol=1e-4)


@every_negative
@batched
def test_of_a_batch_that_the_pipeline_doubled_the_conditional_half_is_guided(tiny: Tiny, make: Make) -> None:
    model, negative = tiny.make().to(tiny.dtype), tiny.exact(tiny.negative(1))
    cond = tiny.exact(tiny.inputs(2))
    uncond = {**cond, **tiny.exact(tiny.text(2, 7, 6))}
    pipe = SimpleNamespace(transformer=model, do_classifier_free_guidance=True)
    with guide(pipe, make(negative)):
        halves = prediction_of(model(**doubled(uncond, cond))).chunk(2)
    tiny.agree(halves[0], ask(tiny, uncond))
    tiny.agree(halves[1], ask(tiny, cond, make(negative)))


WEAK = [
    EMAG(decay=0.5, select=(1,), start=0.0, stop=1.0, scale=4),
    PAG(layers=(1,), scale=2),
    STG(layers=(1,), scale=2, mode="residual"),
]


@pytest.mark.parametrize("weak", WEAK, ids=["EMAG", "PAG", "STG"])
@every_family
def test_a_weak_pass_that_begins_late_is_the_whole_pass(tiny: Tiny, weak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, first, inputs = tiny.make(), tiny.inputs(2), tiny.inputs(2)
    inputs["hidden_states"] = inputs["hidden_states"].flip(0)
    plain = prediction_of(model(**inputs))
    if not families()[tiny.key].self_softmax:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        with pytest.raises(ValueError, match="linear attention"), guide(model, weak, scheduler=scheduler):
            pass
        return
    late = second_of(model, first, inputs, weak, nag(tiny.negative()))
    monkeypatch.setattr(BlockReplay, "starting_at", lambda self, first, batch: nullcontext())
    whole = second_of(model, first, inputs, weak, nag(tiny.negative()))
    assert torch.equal(late, whole)
    assert (late - plain).abs().max() > 1e-3
    guided = ask(tiny, inputs, nag(tiny.negative()))
    assert (late - guided).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
@every_family
def test_every_guidance_acts_or_is_refused_as_the_table_says(tiny: Tiny, method: str) -> None:
    row = next(row for row in listing() if tiny.key in row["transformers"])
    (said,) = (value for column, value in row.items() if method in column.split(", "))
    model, guidance = model_of(tiny.name), METHODS[method](tiny.negative())
    first, second = tiny.inputs(2), tiny.inputs(2)
    second["hidden_states"] = second["hidden_states"].flip(0)
    if said != "tested":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        with pytest.raises(ValueError, match=said.removeprefix("no: ")), guide(model, guidance, scheduler=scheduler):
            pass
        return
    guided, plain = (second_of(model, first, second, *guidances) for guidances in ((guidance,), ()))
    assert guided.isfinite().all()
    assert (guided - plain).abs().max() > 1e-4


@every_family
def test_our_classifier_free_guidance_is_its_equation(tiny: Tiny) -> None:
    """Animate's pipeline shows its unconditional branch a black face."""
    inputs, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative(2))
    black = {name: torch.full_like(value, -1) for name, value in inputs.items() if name == "face_pixel_values"}
    cond, uncond = ask(tiny, inputs), ask(tiny, {**inputs, **negative, **black})
    guided = ask(tiny, inputs, CFG(scale=3, negative_prompt_embeds=negative))
    tiny.agree(guided, uncond + 3 * (cond - uncond))


@batched
def test_our_classifier_free_guidance_is_that_of_a_doubled_batch(tiny: Tiny) -> None:
    cond, negative = tiny.exact(tiny.inputs(2)), tiny.exact(tiny.text(2, 7, 6))
    model = model_of(tiny.name, tiny.dtype)
    halves = prediction_of(model(**doubled({**cond, **negative}, cond))).chunk(2)
    guided = ask(tiny, cond, CFG(scale=3, negative_prompt_embeds=negative))
    tiny.agree(guided, halves[0] + 3 * (halves[1] - halves[0]))


def second_of(model: Any, first: Values, second: Values, *guidances: Guidance) -> Tensor:
    """The prediction of the second of two steps."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with guide(model, *guidances, scheduler=scheduler):
        scheduler.set_timesteps(2)
        prediction = prediction_of(model(**first))
        scheduler.step(prediction, scheduler.timesteps[0], prediction)
        return prediction_of(model(**second))


@every_family
def test_a_second_use_starts_clean(tiny: Tiny) -> None:
    """After another negative in a `guide` before, and within one after a clip of another size that was given up and a
    whole one of another prompt: bitwise what a fresh model does, and tells, with all guidances that keep something."""
    weak = WEAK if families()[tiny.key].self_softmax else []
    one, other = ((nag(text), *weak) for text in (tiny.negative(), tiny.text(1, tiny.length, 8)))
    model, inputs, prompt = tiny.make(), tiny.inputs(2), tiny.text(2, 7, 6)
    before, _ = samplings(model, other, inputs)
    again = samplings(model, one, smaller(tiny, inputs), {**inputs, **prompt, **moved(inputs)}, inputs)
    fresh = samplings(tiny.make(), one, inputs)
    assert torch.equal(again[0], fresh[0])
    assert again[1] == fresh[1]
    assert (before - fresh[0]).abs().max() > 1e-4


def smaller(tiny: Tiny, inputs: Values) -> Values:
    """A call of a clip of one token, or of one frame where others are clean."""
    small = one_token(families()[tiny.key], model_of(tiny.name), inputs, tiny.text(1, 7, 6))
    if families()[tiny.key].joint and "image_rotary_emb" in inputs:
        small["image_rotary_emb"] = tuple(part[:1] for part in inputs["image_rotary_emb"])
    if tiny.key == HISTORY:
        small |= {"hidden_states": inputs["hidden_states"][:1, :, :1], "indices_latents": torch.arange(1)}
    return small


@pytest.mark.parametrize("weak", WEAK, ids=["EMAG", "PAG", "STG"])
@batched
def test_of_a_doubled_batch_a_weak_pass_runs_and_corrects_the_conditional_half(tiny: Tiny, weak: Any) -> None:
    if not families()[tiny.key].self_softmax:
        return
    model, cond, negative = tiny.make().to(tiny.dtype), tiny.exact(tiny.inputs(2)), tiny.exact(tiny.negative())
    uncond = {**cond, **tiny.exact(tiny.text(2, 7, 6))}
    rows: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda model, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    pipe = SimpleNamespace(transformer=model, do_classifier_free_guidance=True)
    pipe.scheduler = scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with guide(pipe, weak, nag(negative)):
        scheduler.set_timesteps(2)
        for step in range(2):
            cond["hidden_states"], uncond["hidden_states"] = (v["hidden_states"].flip(0) for v in (cond, uncond))
            halves = prediction_of(model(**doubled(uncond, cond))).chunk(2)
            scheduler.step(halves[0], scheduler.timesteps[step], halves[0])
    hook.remove()
    assert rows[-2:] == [4, 2]
    first = {**cond, "hidden_states": cond["hidden_states"].flip(0)}
    guided = second_of(model, first, cond, weak, nag(negative))
    added = guided - second_of(model, first, cond, nag(negative))
    # What CFG does not scale moves both halves; EMAG's correction is scaled, and moves the conditional one.
    tiny.agree(halves[0], ask(tiny, uncond) + (0 if isinstance(weak, EMAG) else added))
    tiny.agree(halves[1], guided)


def doubled(uncond: Values, cond: Values) -> Values:
    """The arguments of two calls of two samples as those of one."""
    return {
        name: torch.cat([uncond[name], value]) if isinstance(value, Tensor) and value.shape[:1] == (2,) else value
        for name, value in cond.items()
    }


def test_of_two_calls_in_a_step_the_second_is_unconditional() -> None:
    tiny = BY_NAME["CosmosTransformer3DModel"]
    model, inputs = tiny.make(), tiny.inputs(1)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = SimpleNamespace(transformer=model, scheduler=scheduler, do_classifier_free_guidance=True)
    plain, guided = ask(tiny, inputs), ask(tiny, inputs, nag(tiny.negative()))
    with guide(pipe, nag(tiny.negative())):
        scheduler.set_timesteps(2)
        for timestep in scheduler.timesteps:
            torch.testing.assert_close(prediction_of(model(**inputs)), guided)
            torch.testing.assert_close(prediction_of(model(**inputs)), plain)
            scheduler.step(plain, timestep, plain)


PIPELINES = {  # of each family, pipelines that encode prompts in different ways
    "WanTransformer3DModel": ("WanPipeline", "WanImageToVideoPipeline"),
    "WanVACETransformer3DModel": ("WanVACEPipeline",),
    "WanAnimateTransformer3DModel": ("WanAnimatePipeline",),
    "SkyReelsV2Transformer3DModel": ("SkyReelsV2Pipeline", "SkyReelsV2DiffusionForcingPipeline"),
    "ChronoEditTransformer3DModel": ("ChronoEditPipeline",),
    "AnyFlowTransformer3DModel": ("AnyFlowPipeline",),
    "HeliosTransformer3DModel": ("HeliosPipeline", "HeliosPyramidPipeline"),
    "LTXVideoTransformer3DModel": ("LTXPipeline", "LTXConditionPipeline"),
    "LTX2VideoTransformer3DModel": ("LTX2Pipeline", "LTX2ConditionPipeline"),
    "AllegroTransformer3DModel": ("AllegroPipeline",),
    "LatteTransformer3DModel": ("LattePipeline",),
    "CosmosTransformer3DModel": ("CosmosTextToWorldPipeline", "Cosmos2_5_PredictBasePipeline"),
    "SanaVideoTransformer3DModel": ("SanaVideoPipeline",),
    "SanaWMTransformer3DModel": ("SanaWMPipeline",),
    "Kandinsky5Transformer3DModel": ("Kandinsky5T2VPipeline",),
    "Kandinsky6Transformer3DModel": ("Kandinsky6TI2VAPipeline",),
    "CogVideoXTransformer3DModel": ("CogVideoXPipeline",),
    "ConsisIDTransformer3DModel": ("ConsisIDPipeline",),
    "HunyuanVideoTransformer3DModel": ("HunyuanVideoPipeline",),
    "HunyuanVideoFramepackTransformer3DModel": ("HunyuanVideoFramepackPipeline",),
    "HunyuanVideo15Transformer3DModel": ("HunyuanVideo15Pipeline",),
    "MochiTransformer3DModel": ("MochiPipeline",),
    "EasyAnimateTransformer3DModel": ("EasyAnimatePipeline",),
    "MotifVideoTransformer3DModel": ("MotifVideoPipeline",),
}


ENCODERS = [(key, name) for key, names in PIPELINES.items() for name in names if hasattr(diffusers, name)]


@pytest.mark.parametrize(("transformer", "name"), ENCODERS)
def test_a_negative_in_words_is_encoded_by_the_pipelines_own_encoder(transformer: str, name: str) -> None:
    tiny = BY_NAME[transformer]
    pipe = FakePipeline(getattr(diffusers, name), tiny)
    inputs = tiny.inputs(1)
    with guide(pipe, NAG(negative_prompt="blurry")):
        by_words = prediction_of(pipe.transformer(**inputs))
    torch.testing.assert_close(by_words, ask(tiny, inputs, nag(tiny.text(1, 7, 5))))
    assert pipe.asked in (None, 7)  # as long as the prompt's own, where a length can be asked for


class FakePipeline:
    """A pipeline whose encode_prompt has the real one's signature and order of answers, for 7 tokens of noise."""

    def __init__(self, real: Any, tiny: Tiny) -> None:
        self.transformer, self.real, self.tiny = tiny.make(), real, tiny
        self.vae_scale_factor_spatial = 8
        self.asked: int | None = None
        encode: Any = functools.partial(self._encode)
        encode.__signature__ = inspect.signature(real.encode_prompt.__get__(self))
        self.encode_prompt = encode

    def _encode(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self.asked = (
            inspect.signature(self.real.encode_prompt).bind(self, *args, **kwargs).arguments.get("max_sequence_length")
        )
        tree = ast.parse(textwrap.dedent(inspect.getsource(self.real.encode_prompt)))
        answers = [ast.unparse(node.value) for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value]
        text = self.tiny.text(1, 7, 5)
        if self.tiny.key == "AllegroTransformer3DModel":  # whose pipeline adds an axis after
            text["encoder_hidden_states"] = text["encoder_hidden_states"].squeeze(1)
        longest = max(reversed(answers), key=lambda answer: answer.count(","))
        return tuple(text.get(ANSWERS.get(answer, "")) for answer in longest.strip("()").split(", "))

    def connectors(self, embeds: Tensor, mask: Tensor, padding_side: str) -> tuple[Tensor, Tensor, Tensor]:
        return embeds, self.tiny.text(1, 7, 5)["audio_encoder_hidden_states"], mask


ANSWERS = {  # what encode_prompt's answers are called, as arguments of the transformer
    "prompt_embeds": "encoder_hidden_states",
    "masked_prompt_embeds": "encoder_hidden_states",
    "prompt_embeds_qwen": "encoder_hidden_states",
    "prompt_attention_mask": "encoder_attention_mask",
    "prompt_embeds_mask": "encoder_attention_mask",
    "prompt_embeds_2": "encoder_hidden_states_2",
    "prompt_embeds_mask_2": "encoder_attention_mask_2",
    "pooled_prompt_embeds": "pooled_projections",
    "prompt_embeds_clip": "pooled_projections",
    "negative_prompt_embeds": "encoder_hidden_states",  # SANA-WM's is asked for the negative beside a prompt
    "negative_prompt_attention_mask": "mask",
}


def test_every_family_is_encoded_for() -> None:
    assert set(PIPELINES) == set(families())


@every_family
def test_every_attention_site_is_located(tiny: Tiny) -> None:
    found = locate(model_of(tiny.name))
    roles = {location.role for location in found}
    assert roles in ({"self", "text"}, {"joint"}, {"joint", "text"})
    assert all(location.heads == 2 or tiny.key.startswith("Kandinsky") for location in found)


@every_family
def test_frames_are_consecutive_tokens_of_the_grid(tiny: Tiny) -> None:
    """What a change of the first frame changes where the video enters the blocks; norms by frame rely on it."""
    model, inputs, family = tiny.make(), tiny.inputs(1), families()[tiny.key]
    frames, height, width = grid(family, model, inputs)
    other = {**inputs, "hidden_states": inputs["hidden_states"].clone()}
    axis = "BLC".index("L") if "L" in family.layout else family.layout.index("F")
    first = height * width if "L" in family.layout else inputs["hidden_states"].shape[axis] // frames
    other["hidden_states"].narrow(axis, 0, first).add_(1)
    seen: list[Tensor] = []
    block = model.get_submodule(family.blocks[0])[0]
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or tuple(kwargs.values()))[0].clone()), with_kwargs=True
    )
    for values in (inputs, other):
        model(**values)
    handle.remove()
    changed = (seen[0] != seen[1]).any(-1).flatten()[-frames * height * width :]
    assert changed.tolist() == [True] * (height * width) + [False] * ((frames - 1) * height * width)


@pytest.mark.parametrize("tiny", [t for t in TINY if not families()[t.key].joint], ids=lambda tiny: tiny.name)
def test_the_token_grid_counts_the_videos_queries(tiny: Tiny) -> None:
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


def test_tables_of_families_and_their_lines_are_as_the_declarations_say() -> None:
    """`python benchmarks/families.py` writes them."""
    script = Path(__file__).parents[2] / "benchmarks" / "families.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(families()))
def test_a_family_is_where_its_release_of_diffusers_has_it(name: str) -> None:
    since = Version(families()[name].min_diffusers)
    assert hasattr(diffusers, name) == (Version(diffusers.__version__).release >= since.release)


@pytest.mark.parametrize("name", sorted(refused()))
def test_what_is_left_out_is_refused_with_the_reason(name: str) -> None:
    """By its name alone: the class need not be installed."""
    model = type(name, (torch.nn.Module,), {})()
    for ask_for in (locate, lambda model: guide(model).__enter__()):
        with pytest.raises(LookupError, match=f"{name} is known and not supported: .{{30}}"):
            ask_for(model)
    assert name not in families()


def test_a_model_with_paired_texts_is_refused() -> None:
    model = SimpleNamespace(config=SimpleNamespace(img_context_dim_in=8))
    paired = type("CosmosTransformer3DModel", (SimpleNamespace,), {})(**vars(model))
    with pytest.raises(LookupError, match="a pair of text and image context"):
        family_of(paired)


def test_a_transformer_that_is_declared_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wan = families()["WanTransformer3DModel"]
    monkeypatch.setattr("vidguide.transformer.family.adapters", lambda: [SimpleNamespace(FAMILIES=(wan, wan))])
    with pytest.raises(ValueError, match="WanTransformer3DModel: declared by Wan and by Wan"):
        families.__wrapped__()


def test_text_inputs_that_are_missing_or_unknown_are_named() -> None:
    tiny = BY_NAME["HunyuanVideo15Transformer3DModel"]
    negative = tiny.negative()
    with pytest.raises(ValueError, match="encoder_hidden_states_2 is missing"):
        ask(tiny, tiny.inputs(1), NAG(negative_prompt_embeds=negative["encoder_hidden_states"]))
    with pytest.raises(ValueError, match="not \\['prompt'\\]"):
        ask(tiny, tiny.inputs(1), nag({**negative, "prompt": negative["encoder_hidden_states"]}))
