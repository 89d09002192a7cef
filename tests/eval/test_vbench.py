"""Metrics named `vbench.` equal VBench's own functions: on our clips, with the stub backbones that both are given.

The values of VBench lie in vbench.json; vbench_goldens.py tells how they were made and makes them again.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import known_clips as clips
from tests.helpers import stub_backbones as stubs
from tests.helpers.tiny_vision_models import make_dino
from vidguide.eval.encoders.load import positions_of_dino
from vidguide.eval.encoders.transformers import TransformersEncoder, unit
from vidguide.eval.encoders.vbench_transforms import for_clip, for_dino
from vidguide.eval.metrics.registry import METRICS, chosen
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.vbench import pair_speeds

GOLDENS = json.loads((Path(__file__).parent / "vbench.json").read_text())
DIMENSIONS = sorted(name.partition(".")[2] for name in METRICS if name.startswith("vbench."))


class Pictures:
    """A stub backbone in the place of DINO ViT-B/16, CLIP ViT-B/32 or CLIP ViT-L/14."""

    weights, place = "stub", "cpu float32"

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        self.shape, self.seed = shape, seed

    def vbench_frames(self, frames: np.ndarray) -> np.ndarray:
        prepare = for_dino if self.seed == 0 else for_clip
        return unit(stubs.features(prepare(frames), self.seed))


class Head:
    weights, place = "stub", "cpu float32"

    def score(self, features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(stubs.head()(torch.from_numpy(features))[:, 0])


class Flow:
    weights, place = "stub", "cpu float32"

    def flow(self, first: Tensor, second: Tensor) -> Tensor:
        assert first.shape[-1] % 8 == first.shape[-2] % 8 == 0
        return stubs.flow(first, second)


def sample(name: str, dimension: str) -> Sample:
    picture = {"aesthetic_quality": (14, 768)}.get(dimension, (32, 512))
    given: dict[str, Any] = {
        "dino": Pictures((16, 768), 0),
        "clip": Pictures(picture, 1),
        "aesthetic": Head(),
        "raft": Flow(),
    }
    return Sample(clips.EVERY[name](), encoders=given)


@pytest.mark.parametrize("name", clips.EVERY)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_values_are_vbenchs(dimension: str, name: str) -> None:
    measured = METRICS[f"vbench.{dimension}"](sample(name, dimension)).value
    assert measured == pytest.approx(GOLDENS[dimension][name], abs=1e-6)


@pytest.mark.parametrize("name", clips.EVERY)
def test_speeds_are_vbenchs_up_to_rounding(name: str) -> None:
    clip = clips.EVERY[name]()
    speeds = pair_speeds(clip.frames[:: max(1, round(clip.fps / 8))], Flow())
    assert np.mean(speeds) == pytest.approx(GOLDENS["dynamic_degree_speed"][name], abs=1e-6)


def test_both_answers_of_dynamic_degree_are_among_the_goldens() -> None:
    assert set(GOLDENS["dynamic_degree"].values()) == {0.0, 1.0}
    assert set(GOLDENS["temporal_flickering"]) == set(clips.EVERY)


def test_another_model_than_vbenchs_is_undefined_with_its_reason() -> None:
    given = Sample(clips.constant(), encoders={"clip": Pictures((14, 768), 1), "dino": Pictures((8, 768), 0)})
    assert "VBench uses CLIP ViT-B/32" in str(METRICS["vbench.background_consistency"](given).reason)
    assert "VBench uses DINO ViT-B/16" in str(METRICS["vbench.subject_consistency"](given).reason)
    assert "--raft MODEL" in str(METRICS["vbench.dynamic_degree"](given).reason)
    assert "vbench.aesthetic_quality" not in {metric.id for metric in chosen(None, {"clip": Pictures((14, 768), 1)})}


def test_positions_are_interpolated_by_dinos_factor() -> None:
    torch.manual_seed(0)
    model = make_dino()
    embeddings: Any = model.embeddings
    made = positions_of_dino(embeddings, None, 40, 56)
    grid = embeddings.position_embeddings[:, 1:].view(1, 4, 4, -1).permute(0, 3, 1, 2)
    # Where torch samples for output i is (i + 0.5) / factor - 0.5, with the factor as given, not as realised.
    rows = ((torch.arange(5) + 0.5) * 4 / 5.1 - 0.5, (torch.arange(7) + 0.5) * 4 / 7.1 - 0.5)
    expected = torch.stack([torch.stack([cubic(grid, float(y), float(x)) for x in rows[1]]) for y in rows[0]])
    assert torch.allclose(made[0, 1:], expected.reshape(35, -1), atol=1e-5)
    assert torch.equal(positions_of_dino(embeddings, None, 32, 32), embeddings.position_embeddings)


def cubic(grid: Tensor, y: float, x: float) -> Tensor:
    """Bicubic interpolation (a = -0.75) of `(1, D, H, W)` at one place, edges repeated."""

    def weights(place: float) -> list[tuple[int, float]]:
        start = int(np.floor(place))
        found = []
        for index in range(start - 1, start + 3):
            d = abs(place - index)
            near = 1.25 * d**3 - 2.25 * d**2 + 1
            far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            found.append((index, near if d <= 1 else far if d < 2 else 0.0))
        return found

    height, width = grid.shape[-2:]
    total = torch.zeros(grid.shape[1])
    for row, a in weights(y):
        for column, b in weights(x):
            total += a * b * grid[0, :, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    return total


def test_a_transformer_sees_frames_as_vbench_prepares_them() -> None:
    torch.manual_seed(0)
    model = make_dino()
    encoder = TransformersEncoder(model=model, processor=None, tokenizer=None, name="tiny")
    assert encoder.shape == (8, 16)
    frames = clips.wide(frames=3).frames
    with torch.inference_mode():
        expected = model(pixel_values=for_dino(frames), interpolate_pos_encoding=True).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.vbench_frames(frames), unit(expected), atol=1e-6)
