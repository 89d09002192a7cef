"""FVD and JEDi by tiny video networks with random weights, compared with plain implementations in float64."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.linalg import sqrtm
from torch import Tensor

from tests.helpers.known_clips import noisy, translation, wide
from tests.helpers.tiny_video_models import (
    MEAN,
    STD,
    Plain,
    Scripted,
    save_scripted,
    save_videomae,
    save_vjepa2,
)
from tests.helpers.tiny_vision_models import make_dino, save_processors
from vidguide.clip import Clip
from vidguide.eval.encoders.load import load
from vidguide.eval.encoders.video import Preprocessing
from vidguide.eval.evaluate import evaluate
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.scoring.set_distances import kernel_terms, quadratic_kernel

FOLDERS = ("videomae", "vjepa2", "vjepa2-ssv2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    return {
        "i3d": save_scripted(Scripted(), root / "i3d.pt"),
        "videomae": save_videomae(root / "videomae"),
        "vjepa2": save_vjepa2(root / "vjepa2", pooler=False),
        "vjepa2-ssv2": save_vjepa2(root / "vjepa2-ssv2", pooler=True),
    }


def plain_pixels(frames: np.ndarray, short: int, side: int, antialias: bool) -> Tensor:
    """Return the frames `(F, 3, side, side)` in 0..1, float64."""
    pixels = torch.from_numpy(frames.astype(np.float64) / 255).permute(0, 3, 1, 2)
    height, width = frames.shape[1:3]
    size = [round(length * short / min(height, width)) for length in (height, width)]
    pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=antialias)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return pixels[:, :, top : top + side, left : left + side]


def standardized(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def test_scripted_network_reads_16_frames_in_minus_1_to_1(weights: dict[str, Path]) -> None:
    encoder: Any = load("fvd", str(weights["i3d"]))
    frames = wide(frames=32).frames
    model = torch.jit.load(str(weights["i3d"])).double()
    video = 2 * plain_pixels(frames[::2], 224, 224, antialias=False) - 1
    expected = model(video.transpose(0, 1)[None], return_features=True)[0]
    np.testing.assert_allclose(encoder.clip(frames), expected.detach().numpy(), atol=1e-5)
    assert encoder.weights.startswith("i3d.pt ")
    assert encoder.place == "cpu float32"


def test_videomae_features_are_the_mean_of_its_tokens(weights: dict[str, Path]) -> None:
    encoder: Any = load("fvd", str(weights["videomae"]))
    frames = wide(frames=8).frames
    model = transformers.VideoMAEModel.from_pretrained(weights["videomae"]).double().eval()
    video = standardized(plain_pixels(frames[[0, 2, 4, 6]], 32, 32, antialias=True))
    with torch.inference_mode():
        expected = model(pixel_values=video[None]).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(encoder.clip(frames), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["vjepa2", "vjepa2-ssv2"])
def test_vjepa2_features_are_the_mean_of_the_tokens_or_those_of_the_pooler(name: str, weights: dict[str, Path]) -> None:
    encoder: Any = load("jedi", str(weights[name]))
    frames = wide(frames=8).frames
    video = standardized(plain_pixels(frames[[0, 2, 4, 6]], 36, 32, antialias=True))[None]
    with torch.inference_mode():
        if name == "vjepa2":
            base = transformers.VJEPA2Model.from_pretrained(weights[name]).double().eval()
            expected = base.get_vision_features(video)[0].mean(0)
        else:
            whole: Any = transformers.VJEPA2ForVideoClassification.from_pretrained(weights[name]).double().eval()
            inputs: list[Tensor] = []
            whole.classifier.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
            whole(pixel_values_videos=video)
            expected = inputs[0][0]
    features = encoder.clip(frames)
    assert np.abs(features).max() > 1e-2
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-4)


def test_preprocessing_equals_the_processor_of_the_folder(weights: dict[str, Path]) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(weights["videomae"])
    preprocess = Preprocessing(frames=6, side=32, short_side=32, mean=MEAN, std=STD)
    for side, tolerance in ((32, 1e-5), (64, 0.02)):  # the processor rounds resized frames
        frames = translation(frames=6, side=side).frames
        expected = processor(list(frames), return_tensors="pt")["pixel_values"][0]
        assert float((preprocess(frames) - expected).abs().max()) < tolerance


def test_jedi_kernel_with_all_pairs_equals_the_published_estimator() -> None:
    """sklearn's polynomial kernel of degree 2, gamma 1/D and offset 0, times 100: videojedi/JEDi.py."""
    random = np.random.default_rng()
    first, second = random.normal(size=(9, 7)), random.normal(0.3, 1.2, size=(9, 7))

    def mean(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.mean([(x @ y / 7) ** 2 for x, y in product(left, right)]))

    expected = 100 * (mean(first, first) + mean(second, second) - 2 * mean(first, second))
    terms = kernel_terms(list(first[:, None]), list(second[:, None]), quadratic_kernel)
    assert terms.mean() == pytest.approx(expected, rel=1e-10)


def save_arm(folder: Path, sigma: float) -> Path:
    for number in range(7):
        frames = noisy(sigma, translation(frames=16, side=40, dx=1 + number % 3, dy=number % 2), seed=number).frames
        clip = Clip(frames=frames, fps=8, provenance={"prompt": f"prompt {number}", "seed": 0})
        clip.save(folder / f"{number}.mkv")
    return folder


def features_of(rows: Sequence[dict[str, Any]], metric: str, arm: str) -> np.ndarray:
    chosen = [row for row in rows if row["metric"] == metric and row["arm"] == arm]
    return np.array([row["details"]["features"] for row in sorted(chosen, key=lambda row: row["clip"])])


def test_compare_reports_fvd_and_jedi_of_the_arms(weights: dict[str, Path], tmp_path: Path) -> None:
    arms = [str(save_arm(tmp_path / "one", 1)), str(save_arm(tmp_path / "two", 30))]
    encoders = {"fvd": load("fvd", str(weights["i3d"])), "jedi": load("jedi", str(weights["vjepa2-ssv2"]))}
    summary = evaluate(arms=arms, metrics=["fvd", "jedi"], encoders=encoders, output=tmp_path / "out")
    distances = {distance.name: distance.difference.mean for distance in summary.comparisons[0].sets}
    first, second = (features_of(summary.rows, "fvd.magnitude", arm) for arm in ("one", "two"))
    assert first.shape == (7, 5)
    assert distances["fvd: Fréchet distance between the arms"] == pytest.approx(jackknifed_fvd(first, second), rel=1e-4)
    first, second = (features_of(summary.rows, "jedi.magnitude", arm) for arm in ("one", "two"))
    assert distances["jedi: kernel distance between the arms"] == pytest.approx(plain_jedi(first, second), rel=1e-6)
    assert {row["weights"] for row in summary.rows if row["metric"] == "fvd.magnitude"} == {encoders["fvd"].weights}
    assert "jedi: kernel distance between the arms" in (tmp_path / "out" / "report.md").read_text()


def jackknifed_fvd(first: np.ndarray, second: np.ndarray) -> float:
    def fvd(rows: list[int]) -> float:
        left, right = (np.cov(part[rows], rowvar=False) for part in (first, second))
        gap = first[rows].mean(0) - second[rows].mean(0)
        return float(gap @ gap + np.trace(left + right - 2 * np.real(sqrtm(left @ right))))

    count = len(first)
    everything = list(range(count))
    without = [fvd([i for i in everything if i != j]) for j in everything]
    return count * fvd(everything) - (count - 1) * float(np.mean(without))


def plain_jedi(first: np.ndarray, second: np.ndarray) -> float:
    """Return 100 times the U-statistic of the kernel `(x y / D)^2`, without pairs of one prompt."""
    total, count, size = 0.0, len(first), first.shape[1]
    for i, j in product(range(count), repeat=2):
        if i != j:
            pairs = ((first[i], first[j], 1), (second[i], second[j], 1), (first[i], second[j], -2))
            total += sum(sign * (x @ y / size) ** 2 for x, y, sign in pairs)
    return 100 * total / (count * (count - 1))


def test_magnitude_is_that_of_the_features_and_repeated_frames_are_reported(weights: dict[str, Path]) -> None:
    encoders: dict[str, Any] = {"fvd": load("fvd", str(weights["i3d"]))}
    clip = translation(frames=13)
    result = METRICS["fvd.magnitude"](Sample(clip, encoders=encoders))
    features = encoders["fvd"].clip(clip.frames)
    assert result.value == pytest.approx(np.sqrt((features.astype(float) ** 2).mean()), abs=1e-5)
    assert result.details["remarks"] == ["fvd: the last of 13 frames was repeated to 16"]
    assert METRICS["fvd.magnitude"](Sample(translation(frames=16), encoders=encoders)).details["remarks"] == []
    assert "--jedi MODEL" in str(METRICS["jedi.magnitude"](Sample(clip)).reason)


def test_weights_of_another_kind_raise_before_scoring(weights: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("fvd", "jedi"):
        with pytest.raises(FileNotFoundError, match=f"{kind}='gone/model': no such weights; nothing is downloaded"):
            load(kind, "gone/model")
    with pytest.raises(FileNotFoundError, match="jedi="):
        load("jedi", str(weights["i3d"]))
    with pytest.raises(ValueError, match="model_type is 'vjepa2'; must be 'videomae'"):
        load("fvd", str(weights["vjepa2"]))
    with pytest.raises(ValueError, match="model_type is 'videomae'; must be 'vjepa2'"):
        load("jedi", str(weights["videomae"]))
    dino: Any = make_dino()
    dino.save_pretrained(tmp_path / "dino")
    save_processors(tmp_path / "dino")
    with pytest.raises(ValueError, match="model_type is 'vit'"):
        load("fvd", str(tmp_path / "dino"))
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pt': not a TorchScript file"):
        load("fvd", str(tmp_path / "text.pt"))


@pytest.mark.parametrize("shape", [[5], [2, 5], [1, 5, 2]])
def test_scripted_network_with_another_output_raises(shape: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"returns shape \(.*must map \(1, 3, 16, 224, 224\) to features \(1, D\)"):
        load("fvd", str(save_scripted(Plain(shape), tmp_path / "x.pt")))


def test_scripted_network_without_options_or_for_images_only(tmp_path: Path) -> None:
    encoder: Any = load("fvd", str(save_scripted(Plain([1, 4]), tmp_path / "x.pt")))
    assert encoder.clip(translation(frames=4).frames).shape == (4,)
    with pytest.raises(ValueError, match="fails on a black clip"):
        load("fvd", str(save_scripted(torch.nn.Conv2d(7, 3, 3), tmp_path / "y.pt")))


def test_incomplete_folders_raise(tmp_path: Path) -> None:
    folder = save_vjepa2(tmp_path / "a", pooler=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["VJEPA2ForVideoClassification"]}))
    with pytest.raises(ValueError, match=r"lacks the weights 'classifier\.bias' and"):
        load("jedi", str(folder))
    (folder / "video_preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must contain video_preprocessor_config\.json or preprocessor_config\.json"):
        load("jedi", str(folder))
