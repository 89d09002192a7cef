"""EMAG's selection of layers: its measure, its candidates, its presets, and its warning."""

import warnings
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.helpers.sampling import ALWAYS, sample, videos
from tests.helpers.tiny_wan import tiny_wan
from vidguide import EMAG, guide
from vidguide.guidances.schedule import guided_steps
from vidguide.pipelines.request.guidance_spec import from_json, parse
from vidguide.tracing.run import Run, SampleChoice

LAYERS = (0, 1, 2)


def wan_with_larger_queries(layer: int, factor: float) -> Any:
    """Return a Wan in which the queries of one layer are larger, and its keys smaller, so that it predicts the same."""
    model = tiny_wan().double()
    model.blocks[layer].attn1.norm_q.weight.data *= factor
    model.blocks[layer].attn1.norm_k.weight.data /= factor
    return model


def choices_of(model: Any, **parameters: Any) -> list[SampleChoice]:
    emag = EMAG(decay=0.5, layers=LAYERS, **ALWAYS, **parameters)
    run: Run = sample(model, videos(5, torch.float64), emag)[1]
    return [choice for perturbed in run.trace.choices for choice in perturbed.samples]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_relative_measure_does_not_depend_on_the_size_of_a_layers_queries(layer: int) -> None:
    plain = choices_of(tiny_wan().double(), measure="relative")
    for factor in (0.2, 7.0):
        scaled = choices_of(wan_with_larger_queries(layer, factor), measure="relative")
        assert [choice.layers for choice in scaled] == [choice.layers for choice in plain]
        for one, other in zip(scaled, plain, strict=True):
            assert list(one.gradients.values()) == pytest.approx(list(other.gradients.values()), rel=1e-6)
    largest = choices_of(wan_with_larger_queries(layer, 7.0))[2:]  # at first there is no distance
    assert {choice.layers for choice in largest} == {(layer,)}
    assert {choice.layers for choice in plain[2:]} != {(layer,)}


def test_the_relative_measure_is_the_distance_in_units_of_the_mean_query() -> None:
    queries: list[torch.Tensor] = []
    model, calls = tiny_wan().double(), videos(3, torch.float64)
    handle = model.blocks[1].attn1.norm_q.register_forward_hook(lambda module, args, output: queries.append(output))
    for inputs in calls:
        model(**inputs)
    handle.remove()
    average = queries[0]
    for query in queries[1:]:
        average = 0.5 * average + 0.5 * query
    expected = (average - queries[-1]).abs().mean((1, 2)) / queries[-1].abs().mean((1, 2))
    emag = EMAG(decay=0.5, select=(1,), measure="relative", **ALWAYS)
    last = sample(model, calls, emag)[1].trace.choices[-1]
    assert [choice.gradients[1] for choice in last.samples] == pytest.approx(expected.tolist(), rel=1e-12)


def test_maps_are_compared_as_they_are() -> None:
    absolute = choices_of(tiny_wan().double(), variant="map")
    assert choices_of(tiny_wan().double(), variant="map", measure="relative") == absolute


def test_all_perturbs_every_block_at_once() -> None:
    model, calls = tiny_wan(), videos(4)
    every, run = sample(model, calls, EMAG(decay=0.5, select="all", **ALWAYS))
    named, _ = sample(model, calls, EMAG(decay=0.5, select=LAYERS, **ALWAYS))
    two, _ = sample(model, calls, EMAG(decay=0.5, select="all", layers=(0, 1), **ALWAYS))
    assert all(torch.equal(one, other) for one, other in zip(every, named, strict=True))
    assert {choice.layers for choice in run.trace.choices} == {LAYERS}
    assert not torch.equal(every[-1], two[-1])


def warnings_of(*samplings: tuple[Any, EMAG], steps: int = 6) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for model, emag in samplings:
            sample(model, videos(steps), emag)
    return [str(warning.message) for warning in caught if "chose layer" in str(warning.message)]


@pytest.mark.parametrize("select", ["largest", "previous"])
def test_a_layer_that_never_changes_is_named_once_in_a_run(select: str) -> None:
    emag, model = EMAG(decay=0.5, select=select, start=0.5, stop=1.0), wan_with_larger_queries(2, 50.0).float()
    (message,) = warnings_of((model, emag))
    assert f"EMAG(select={select!r}) chose layer 2 of (0, 1, 2) in each of 3 steps" in message
    assert "select=(2,) is cheaper and equal, and measure='relative' may choose others" in message
    assert len(warnings_of((model, emag), (model, emag))) == 2
    fixed = EMAG(decay=0.5, select=(2,), start=0.5, stop=1.0)
    for chosen, named in zip(sample(model, videos(), emag)[0], sample(model, videos(), fixed)[0], strict=True):
        assert torch.equal(chosen, named)


def test_a_layer_that_changes_or_is_the_only_one_is_not_warned_of() -> None:
    model = wan_with_larger_queries(2, 50.0).float()
    others: list[dict[str, Any]] = [dict(select=(2,)), dict(layers=(2,)), dict(select="all"), dict(measure="relative")]
    for parameters in others:
        assert not warnings_of((model, EMAG(decay=0.5, start=0.5, stop=1.0, **parameters)))
    (message,) = warnings_of((model, EMAG(decay=0.5, scale=[3, 1, 3, 3, 1, 1], start=0.3, stop=1.0)))
    assert "in each of 2 steps" in message  # steps 2 and 3: at the others the scale is off


def test_a_run_that_ends_early_is_not_judged() -> None:
    model, emag = wan_with_larger_queries(2, 50.0).float(), EMAG(decay=0.5, start=0.5, stop=1.0)
    scheduler = FlowMatchEulerDiscreteScheduler()
    with warnings.catch_warnings(record=True) as caught, guide(model, emag, scheduler=scheduler):
        warnings.simplefilter("always")
        scheduler.set_timesteps(6)
        for inputs, timestep in zip(videos()[:5], scheduler.timesteps[:5], strict=True):
            scheduler.step(prediction := model(**inputs)[0], timestep, prediction)
    assert not [warning for warning in caught if "chose layer" in str(warning.message)]


def test_published_settings_are_those_of_the_authors_runs() -> None:
    sd3, dit = EMAG.published("sd3"), EMAG.published("dit")
    assert (sd3.scale, sd3.decay, sd3.variant, sd3.candidates(24)) == (1.5, 0.988, "query", (6, 7, 8))
    assert [n for n in range(28) if sd3.active(n, 28)] == list(range(23))  # it averages from the first step on
    assert guided_steps(sd3, 28, 1) == list(range(5, 23))
    assert (dit.scale, dit.decay, dit.variant, dit.candidates(28)) == (3.0, 0.988, "map", (12, 13, 14, 15))
    assert [n for n in range(250) if dit.active(n, 250)] == list(range(100, 200))
    assert guided_steps(dit, 250, 1) == list(range(150, 200))
    assert (EMAG().scale, EMAG().decay, EMAG().candidates(24)) == (sd3.scale, sd3.decay, sd3.candidates(24))


def test_published_settings_take_other_values_and_name_the_unknown() -> None:
    changed = EMAG.published("dit", variant="query", scale=2.0)
    assert (changed.variant, changed.scale, changed.candidates(28)) == ("query", 2.0, (12, 13, 14, 15))
    assert EMAG.published("sd3", layers=(1, 2)).candidates(5) == (1, 2)
    assert EMAG.published("sd3", select=(1,)).candidates(5) == (1,)
    assert EMAG.published("sd3", depths=(0.0, 1.0)).candidates(5) == (0, 1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"EMAG\.published\('sdxl'\): must be one of sd3, dit"):
        EMAG.published("sdxl")
    with pytest.raises(ValueError, match="decay=2"):
        EMAG.published("sd3", decay=2)
    with pytest.raises(TypeError, match="layer"):
        EMAG.published("sd3", layer=1)


def test_the_command_line_has_the_defaults_of_the_class() -> None:
    (plain,) = parse("emag")
    assert plain.describe() == EMAG().describe()
    (emag,) = parse("emag:select=all,measure=relative,depths=0.2/0.5")
    expected = EMAG(select="all", measure="relative", depths=(0.2, 0.5))
    assert emag.describe() == from_json(emag.describe()).describe() == expected.describe()
