"""Metrics named `vbench.` equal VBench's functions, on the same clips and with the same stub backbones.

vbench.json contains the values of VBench; tests/helpers/vbench_goldens.py generates it.
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
from vidguide.eval.encoders.load import interpolate_dino_positions
from vidguide.eval.encoders.transformers import TransformersEncoder, normalize
from vidguide.eval.encoders.vbench_transforms import preprocess_clip, preprocess_dino
from vidguide.eval.metrics.registry import METRICS, select_metrics
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.metrics.vbench import pair_speeds

GOLDENS = json.loads((Path(__file__).parent / "vbench.json").read_text())
DIMENSIONS = sorted(name.partition(".")[2] for name in METRICS if name.startswith("vbench."))


class Pictures:
    """Stub of DINO ViT-B/16, CLIP ViT-B/32 or CLIP ViT-L/14."""

    weights, place = "stub", "cpu float32"

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        self.shape, self.seed = shape, seed

    def vbench_frames(self, frames: np.ndarray) -> np.ndarray:
        prepare = preprocess_dino if self.seed == 0 else preprocess_clip
        return normalize(stubs.features(prepare(frames), self.seed))


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
    encoders: dict[str, Any] = {
        "dino": Pictures((16, 768), 0),
        "clip": Pictures(picture, 1),
        "aesthetic": Head(),
        "raft": Flow(),
    }
    return Sample(clips.EVERY[name](), encoders=encoders)


@pytest.mark.parametrize("name", clips.EVERY)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_values_equal_vbenchs(dimension: str, name: str) -> None:
    measured = METRICS[f"vbench.{dimension}"](sample(name, dimension)).value
    assert measured == pytest.approx(GOLDENS[dimension][name], abs=1e-6)


@pytest.mark.parametrize("name", clips.EVERY)
def test_pair_speeds_equal_vbenchs(name: str) -> None:
    clip = clips.EVERY[name]()
    speeds = pair_speeds(clip.frames[:: max(1, round(clip.fps / 8))], Flow())
    assert np.mean(speeds) == pytest.approx(GOLDENS["dynamic_degree_speed"][name], abs=1e-6)


def test_goldens_cover_both_values_of_dynamic_degree() -> None:
    assert set(GOLDENS["dynamic_degree"].values()) == {0.0, 1.0}
    assert set(GOLDENS["temporal_flickering"]) == set(clips.EVERY)


def test_other_model_than_vbenchs_is_undefined_with_a_reason() -> None:
    sample = Sample(clips.constant(), encoders={"clip": Pictures((14, 768), 1), "dino": Pictures((8, 768), 0)})
    assert "VBench uses CLIP ViT-B/32" in str(METRICS["vbench.background_consistency"](sample).reason)
    assert "VBench uses DINO ViT-B/16" in str(METRICS["vbench.subject_consistency"](sample).reason)
    assert "--raft MODEL" in str(METRICS["vbench.dynamic_degree"](sample).reason)
    assert "vbench.aesthetic_quality" not in {
        metric.id for metric in select_metrics(None, {"clip": Pictures((14, 768), 1)})
    }


def test_positions_are_interpolated_by_dinos_scale_factor() -> None:
    torch.manual_seed(0)
    model = make_dino()
    embeddings: Any = model.embeddings
    positions = interpolate_dino_positions(embeddings, None, 40, 56)
    grid = embeddings.position_embeddings[:, 1:].view(1, 4, 4, -1).permute(0, 3, 1, 2)
    # Where torch samples for output i is (i + 0.5) / factor - 0.5, with the requested factor, not the realised one.
    rows = ((torch.arange(5) + 0.5) * 4 / 5.1 - 0.5, (torch.arange(7) + 0.5) * 4 / 7.1 - 0.5)
    expected = torch.stack([torch.stack([cubic(grid, float(y), float(x)) for x in rows[1]]) for y in rows[0]])
    assert torch.allclose(positions[0, 1:], expected.reshape(35, -1), atol=1e-5)
    assert torch.equal(interpolate_dino_positions(embeddings, None, 32, 32), embeddings.position_embeddings)


def cubic(grid: Tensor, y: float, x: float) -> Tensor:
    """Interpolate `(1, D, H, W)` at one position: bicubic (a = -0.75), edges replicated."""

    def weights(place: float) -> list[tuple[int, float]]:
        start = int(np.floor(place))
        terms = []
        for index in range(start - 1, start + 3):
            d = abs(place - index)
            near = 1.25 * d**3 - 2.25 * d**2 + 1
            far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            terms.append((index, near if d <= 1 else far if d < 2 else 0.0))
        return terms

    height, width = grid.shape[-2:]
    total = torch.zeros(grid.shape[1])
    for row, a in weights(y):
        for column, b in weights(x):
            total += a * b * grid[0, :, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    return total


def test_vbench_frames_preprocesses_as_vbench() -> None:
    torch.manual_seed(0)
    model = make_dino()
    encoder = TransformersEncoder(model=model, processor=None, tokenizer=None, name="tiny")
    assert encoder.shape == (8, 16)
    frames = clips.wide(frames=3).frames
    with torch.inference_mode():
        expected = model(pixel_values=preprocess_dino(frames), interpolate_pos_encoding=True).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.vbench_frames(frames), normalize(expected), atol=1e-6)
