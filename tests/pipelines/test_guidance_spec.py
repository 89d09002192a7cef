"""Guidance specs: every registered guidance, and values by the annotations of the parameters."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch

import vidguide
from vidguide import CFG, NAG
from vidguide.guidances.base import Guidance
from vidguide.pipelines.request.guidance_spec import GUIDANCES, fill_negative_prompt, from_json, guidance_class, parse


@dataclass(frozen=True, kw_only=True, eq=False)
class Scheduled(Guidance):
    """Guidance with a parameter of every kind."""

    scale: float | Sequence[float] | Callable[[float], float] = 1.0
    mode: Literal["a", "b"] = "a"
    blocks: tuple[int, ...] | str | None = None
    steps: int = 1
    flag: bool = False


@pytest.fixture
def _scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GUIDANCES, "scheduled", f"{__name__}:Scheduled")
    monkeypatch.setattr("pkgutil.resolve_name", lambda name: Scheduled)


def test_every_public_guidance_is_registered_under_its_class() -> None:
    public = {name for name in vidguide.__all__ if isinstance(getattr(vidguide, name), type)} - {"Clip", "Setup"}
    assert {guidance_class(name).__name__ for name in GUIDANCES} == public
    assert all(guidance_class(name) is getattr(vidguide, guidance_class(name).__name__) for name in GUIDANCES)


@pytest.mark.parametrize("name", GUIDANCES)
def test_a_guidance_is_read_back_from_its_json(name: str) -> None:
    strength = "weight" if name == "enhance" else "scale"
    (guidance,) = parse(f"{name}:{strength}=2" + ("" if name == "cads" else ",start=0.25,stop=0.75"))
    restored = from_json(json.loads(json.dumps(guidance.describe())))
    assert type(restored) is guidance_class(name)
    assert restored.describe() == guidance.describe()


def test_a_scale_that_is_a_function_is_not_in_the_json() -> None:
    entry = json.loads(json.dumps(CFG(scale=lambda progress: 5 - progress).describe()))
    with pytest.raises(ValueError, match=r"CFG\(scale=.*lambda.*\): was given a function"):
        from_json(entry)


def test_sequences_in_json_become_tuples() -> None:
    (emag,) = parse("emag:select=1/3,layers=1-3")
    restored: Any = from_json(json.loads(json.dumps(emag.describe())))
    assert (restored.select, restored.layers) == ((1, 3), (1, 2, 3))


@pytest.mark.usefixtures("_scheduled")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scale=2", {"scale": 2.0}),
        ("2.5", {"scale": 2.5}),
        ("scale=7/5/3.5", {"scale": [7.0, 5.0, 3.5]}),
        ("mode=b", {"mode": "b"}),
        ("blocks=2-4", {"blocks": (2, 3, 4)}),
        ("blocks=7", {"blocks": (7,)}),
        ("blocks=largest", {"blocks": "largest"}),
        ("blocks=none", {"blocks": None}),
        ("steps=3,flag=true", {"steps": 3, "flag": True}),
    ],
)
def test_values_have_the_types_of_the_annotations(text: str, expected: dict[str, Any]) -> None:
    (guidance,) = parse(f"scheduled:{text}")
    values = {field.name: getattr(guidance, field.name) for field in dataclasses.fields(guidance)}
    assert {name: values[name] for name in expected} == expected
    assert {name: type(values[name]) for name in expected} == {name: type(value) for name, value in expected.items()}


@pytest.mark.usefixtures("_scheduled")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale=big", "scale='big': must be a number or several, each a number, such as 3/5/7$"),
        ("mode=c", "mode='c': must be one of a, b$"),
        ("blocks=0-999999999", "blocks='0-999999999': must be a range of at most 1000 integers$"),
        ("steps=1.5", "steps='1.5': must be an integer$"),
        ("flag=maybe", "flag='maybe': must be true or false$"),
        ("flags=true", r"unknown scheduled parameter 'flags' \(did you mean 'flag'\?\); must be one of start, stop"),
        ("negative_prompt=red", "unknown scheduled parameter 'negative_prompt'"),
    ],
)
def test_bad_values_are_refused_with_what_the_annotation_allows(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(f"scheduled:{text}")


def test_guidances_that_the_json_cannot_restore_are_refused() -> None:
    embeds = NAG(negative_prompt_embeds=torch.zeros(1, 2, 3)).describe()
    with pytest.raises(ValueError, match="NAG: was given embeddings, which the JSON does not hold"):
        from_json(embeds)
    with pytest.raises(ValueError, match=r"unknown guidance 'NAGG' \(did you mean 'NAG'\?\)"):
        from_json({"name": "NAGG"})


def test_only_guidances_without_a_negative_prompt_get_the_common_one() -> None:
    filled: Any = fill_negative_prompt((NAG(), CFG(negative_prompt="blue")), "red")
    assert [guidance.negative_prompt for guidance in filled] == ["red", "blue"]
