"""Checks of requests and provenance files by pydantic, and the form of their errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidguide import generate
from vidguide.clip import Clip
from vidguide.eval.files import validate
from vidguide.pipelines.generate import generate as function
from vidguide.pipelines.request.provenance import REPRODUCED, arguments_from, compare_clip, load_provenance
from vidguide.pipelines.request.schema import Rate, Request, Settings

RECORD: dict[str, Any] = {"prompt": "a red circle", "model": "tiny", "seed": 0, "guidance": []}


def test_the_schema_has_the_arguments_of_generate() -> None:
    arguments = set(function.__annotations__)
    assert set(Request.__annotations__) <= arguments
    assert set(Settings.__annotations__) <= arguments
    assert set(REPRODUCED) <= arguments


@pytest.mark.parametrize("value", [8, 8.0, np.float64(8)])
def test_numbers_are_returned_as_they_were_given(value: Any) -> None:
    assert type(validate(Rate, value, "fps")) is type(value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(prompt=3), TypeError, "prompt=3: must be non-empty text"),
        (dict(prompt="\n "), ValueError, r"prompt='\\n ': must be non-empty text"),
        (dict(steps=True), TypeError, "steps=True: must be an integer of at least 1"),
        (dict(steps=0), ValueError, "steps=0: must be an integer of at least 1"),
        (dict(fps=float("inf")), ValueError, "fps=inf: must be a finite number above 0"),
        (dict(fps="8"), TypeError, "fps='8': must be a finite number above 0"),
        (dict(seed=2**63), ValueError, r"seed=9223372036854775808: must be an integer from 0 to 2\^63 - 1"),
        (dict(max_sequence_length=0), ValueError, "max_sequence_length=0: must be an integer of at least 1"),
    ],
)
def test_bad_arguments_are_named_with_value_and_cure(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        generate(**dict(prompt="a red circle", model="nowhere/nothing") | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "clip.json: not JSON"),
        ([], "clip.json: is list, must be a JSON object"),
        ({**RECORD, "seed": -1}, "clip.json': seed=-1: must be an integer from 0"),
        (
            {name: RECORD[name] for name in ("prompt", "model", "guidance")},
            "clip.json': lacks 'seed'; pass the JSON",
        ),
        ({**RECORD, "guidance": "nag"}, "clip.json': guidance='nag': must be a valid list"),
    ],
)
def test_files_that_are_not_provenance_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "clip.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises((ValueError, TypeError), match=message):
        load_provenance(path)


def test_unknown_and_wrong_values_of_a_recorded_preset_are_refused() -> None:
    for values, message in (
        ({"weights": 1}, "unknown field 'weights'"),
        ({"steps": "four"}, "steps='four': must be a valid integer"),
    ):
        preset = {"values": {"source": "a/b", **values}, "files": {}}
        with pytest.raises(ValueError, match=message):
            arguments_from({**RECORD, "preset": preset})


def test_provenance_without_settings_gives_the_arguments_that_it_has() -> None:
    assert arguments_from({**RECORD, "versions": {}}) == RECORD


def test_differences_that_may_explain_other_frames_are_listed() -> None:
    provenance = {"versions": {"torch": "2"}, "device": "cpu", "preset": {"files": {"a/b": "1"}}}
    clip = Clip(frames=np.zeros((1, 2, 2, 3), np.uint8), fps=8, provenance={**provenance, "device": "cuda"})
    assert compare_clip({"sha256": clip.sha256}, clip) == "the same frames, bit for bit"
    assert compare_clip(provenance, clip) == "the frames differ from the original's: device: cpu before, cuda now"
    other = {**clip.provenance, "preset": {"files": {"a/b": "2"}}, "versions": {"torch": "1"}}
    assert compare_clip(other, clip).endswith("a/b: 2 before, 1 now; torch: 1 before, 2 now")
    assert "no recorded version" in compare_clip(clip.provenance, clip)
