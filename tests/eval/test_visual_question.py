"""VQAScore by a tiny LLaVA with random weights, compared with direct use of the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.helpers.known_clips import translation
from tests.helpers.tiny_video_models import save_llava, save_videomae
from vidguide.eval.encoders.load import load
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.metrics.sample import Sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("vqa") / "llava")


def plain_probability(folder: Path, frame: np.ndarray, text: str) -> float:
    """Return the probability of "Yes" after the prompt in words, in float64."""
    processor: Any = transformers.LlavaProcessor.from_pretrained(folder)
    model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(folder).double().eval()
    prompt = f'USER : <image> Does this figure show "{text}"? Please answer yes or no. ASSISTANT :'
    inputs = processor(images=Image.fromarray(frame), text=prompt, return_tensors="pt").to("cpu", torch.float64)
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -1]
    weights = torch.exp(logits - logits.max())
    return float(weights[processor.tokenizer.get_vocab()["Yes"]] / weights.sum())


def test_score_is_the_mean_probability_of_yes(folder: Path) -> None:
    encoder: Any = load("vqa", str(folder))
    clip = translation(frames=16)
    result = METRICS["vqa.score"](Sample(clip, "a b", encoders={"vqa": encoder}))
    assert result.details["frames"] == [0, 2, 4, 6, 8, 10, 12, 14]
    expected = [plain_probability(folder, clip.frames[frame], "a b") for frame in result.details["frames"]]
    np.testing.assert_allclose(np.array(result.per_frame, float), expected, rtol=1e-5)
    assert result.value == pytest.approx(np.mean(expected), rel=1e-6)
    other = METRICS["vqa.score"](Sample(clip, "c d", encoders={"vqa": encoder})).value
    assert other != pytest.approx(result.value, rel=1e-6)
    assert encoder.weights.startswith(str(folder))
    assert encoder.place == "cpu float32"


def test_short_clip_asks_about_each_frame_once_and_no_prompt_is_undefined(folder: Path) -> None:
    encoders: dict[str, Any] = {"vqa": load("vqa", str(folder))}
    clip = translation(frames=3)
    assert METRICS["vqa.score"](Sample(clip, "a", encoders=encoders)).details["frames"] == [0, 1, 2]
    assert "eval_prompt" in str(METRICS["vqa.score"](Sample(clip, encoders=encoders)).reason)
    assert "--vqa MODEL" in str(METRICS["vqa.score"](Sample(clip, "a")).reason)


def test_folders_that_cannot_answer_raise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vqa='gone/model': no such folder; nothing is downloaded"):
        load("vqa", "gone/model")
    with pytest.raises(ValueError, match="model_type 'videomae' is not supported"):
        load("vqa", str(save_videomae(tmp_path / "videomae")))
    with pytest.raises(ValueError, match="has no chat template"):
        load("vqa", str(save_llava(tmp_path / "silent", chat=None)))
    with pytest.raises(ValueError, match=r"'Yes' is the tokens \[1\]; must be one known token"):
        load("vqa", str(save_llava(tmp_path / "wordless", answers="No")))
    transformers.T5Config(d_model=8).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="model_type 't5' is not supported"):
        load("vqa", str(tmp_path / "t5"))
