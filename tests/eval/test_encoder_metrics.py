"""Encoder metrics on tiny models with random weights, compared with direct use of the models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.helpers.known_clips import constant, noisy, translation
from tests.helpers.tiny_vision_models import make_clip, make_dino, make_xclip, save_processors
from vidguide.clip import Clip
from vidguide.eval.encoders.load import load
from vidguide.eval.encoders.transformers import segment_centres
from vidguide.eval.evaluate import evaluate
from vidguide.eval.metrics.base import Value
from vidguide.eval.metrics.registry import METRICS, select_metrics, with_weights
from vidguide.eval.metrics.sample import Sample


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    makers: dict[str, Callable[[], torch.nn.Module]] = {"clip": make_clip, "xclip": make_xclip, "dino": make_dino}
    result = {}
    for kind, make in makers.items():
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        model = make()
        assert isinstance(model, transformers.PreTrainedModel)
        model.save_pretrained(folder)
        save_processors(folder)
        result[kind] = load(kind, str(folder))
    return result


def measured(name: str, clip: Clip, encoders: dict[str, Any], prompt: str = "a b", negative: str = "c d") -> Value:
    return METRICS[name](Sample(clip, prompt, negative, encoders))


def test_cosines_equal_those_of_the_model(encoders: dict[str, Any]) -> None:
    clip = translation(frames=5)
    features = encoders["clip"].frames(clip.frames)
    assert np.linalg.norm(features, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    prompt, avoided = encoders["clip"].text("a b")[0], encoders["clip"].text("c d")[0]
    result = measured("clip.frame_cosine", clip, encoders)
    assert result.value == pytest.approx(float((features @ prompt).mean()), abs=1e-6)
    assert result.details["x100"] == pytest.approx(100 * float((features @ prompt).mean()), abs=1e-4)
    assert measured("clip.negative_cosine", clip, encoders).value == pytest.approx(float((features @ avoided).mean()))
    gap = float((features @ (prompt - avoided)).mean())
    assert measured("clip.margin", clip, encoders).value == pytest.approx(gap, abs=1e-6)
    prefixed = encoders["clip"].text("A photo depicts a b")[0]
    hessel = measured("clip.score_hessel", clip, encoders).value
    assert hessel == pytest.approx(float(2.5 * np.maximum(features @ prefixed, 0).mean()), abs=1e-6)


def test_truncated_text_is_reported_and_keeps_its_end_token(encoders: dict[str, Any]) -> None:
    long = " ".join("abcdefghij" * 2)
    assert encoders["clip"].text(long)[1] == 22 - 12
    warnings = measured("clip.frame_cosine", constant(2), encoders, long).details["remarks"]
    assert "last 10 tokens" in warnings[0]
    assert measured("clip.frame_cosine", constant(2), encoders).details["remarks"] == []
    assert "X-CLIP" in measured("xclip.similarity", constant(4), encoders, long).details["remarks"][0]


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_consistency_is_1_for_a_frozen_clip_and_falls_with_noise(kind: str, encoders: dict[str, Any]) -> None:
    assert measured(f"{kind}.consistency", constant(), encoders).value == pytest.approx(1, abs=1e-5)
    values = [measured(f"{kind}.consistency", noisy(sigma, constant()), encoders).value for sigma in (5, 40)]
    assert values[0] is not None
    assert values[1] is not None
    assert 1 > values[0] > values[1]


def test_frame_metrics_do_not_depend_on_batches_or_order(encoders: dict[str, Any]) -> None:
    clip = translation(frames=20)  # more than a batch
    alone = np.concatenate([encoders["clip"].frames(clip.frames[index : index + 1]) for index in range(20)])
    np.testing.assert_allclose(encoders["clip"].frames(clip.frames), alone, atol=1e-5)
    reverse = Clip(frames=clip.frames[::-1].copy(), fps=8)
    forward, backward = (measured("clip.frame_cosine", shown, encoders).value for shown in (clip, reverse))
    assert forward == pytest.approx(backward)


def test_xclip_reads_the_centre_frame_of_each_segment(encoders: dict[str, Any]) -> None:
    assert segment_centres(81, 8).tolist() == [4, 14, 24, 34, 44, 54, 64, 75]
    assert segment_centres(2, 4).tolist() == [0, 1, 1, 1]
    value = measured("xclip.similarity", translation(), encoders).value
    assert value is not None
    assert -1 <= value <= 1


def test_weights_are_part_of_the_definition(encoders: dict[str, Any]) -> None:
    selected = select_metrics(["clip", "temporal"], encoders)
    by_id = {metric.id: with_weights(metric, encoders) for metric in selected}
    assert by_id["clip.margin"].weights == encoders["clip"].weights
    assert by_id["temporal.warp_error"].weights == ""
    assert not any(metric.id.startswith("clip") for metric in select_metrics(None))
    assert "--clip MODEL" in str(METRICS["clip.consistency"](Sample(constant())).reason)
    with pytest.raises(ValueError, match="encoder='siglip'"):
        load("siglip", "somewhere")


def test_report_names_the_weights(encoders: dict[str, Any], tmp_path: Path) -> None:
    path = noisy(2).save(tmp_path / "a.mkv")
    (tmp_path / "p.json").write_text('{"a.mkv": "a b c d e f g h i j a b c"}')
    summary = evaluate([path], manifest=tmp_path / "p.json", metrics=["clip"], encoders=encoders, output=tmp_path / "o")
    rows = [row for row in summary.rows if row["metric"].startswith("clip.") and row["status"] == "ok"]
    assert {row["weights"] for row in rows} == {encoders["clip"].weights}
    assert {row["computed_on"] for row in rows} == {"cpu float32"}
    assert any("CLIP did not see the last 3 tokens" in note for note in summary.notes)
    assert "CLIP did not see" in (tmp_path / "o" / "report.html").read_text()
