"""generate() on modular pipelines: given, and loaded from a folder."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.helpers.audio_pipelines import ltx2_decoders
from tests.helpers.modular_pipelines import ltx2_components
from tests.helpers.shipped_calls import load_tiny
from tests.helpers.tiny_families import BY_NAME
from vidguide import generate
from vidguide.pipelines.generate import to_samples
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.request.setup import Setup

pytestmark = pytest.mark.skipif(not hasattr(diffusers, "EchoModularPipeline"), reason="not in this diffusers")

SHORT: dict[str, Any] = dict(steps=2, height=64, width=64, frames=9, progress=False)


def wan() -> Any:
    """Return the shipped model's components in a modular pipeline, with a guider of two conditions."""
    pipe = diffusers.WanModularPipeline()
    parts = {name: part for name, part in load_tiny().components.items() if name in pipe.components}
    pipe.update_components(**parts, guider=diffusers.ClassifierFreeGuidance(guidance_scale=3.0))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ltx2() -> Any:
    """Return an LTX-2 that makes audio, with its own guidance off."""
    pipe = diffusers.LTX2ModularPipeline()
    transformer = BY_NAME["LTX2VideoTransformer3DModel"].make()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe.update_components(transformer=transformer, scheduler=scheduler, **ltx2_components() | ltx2_decoders())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_frames_are_those_of_the_pipeline_itself() -> None:
    pipe = wan()
    clip = generate("a circle moving right", guidance_scale=3.0, seed=3, pipe=pipe, **SHORT)
    call = dict(height=64, width=64, num_frames=9, num_inference_steps=2, output_type="np")
    video = pipe(prompt="a circle moving right", **call, generator=_seeded(3))
    assert np.array_equal(clip.frames, np.round(video.get("videos")[0].clip(0, 1) * 255).astype(np.uint8))


def test_a_negative_prompt_selects_nag() -> None:
    pipe = wan()
    plain = generate("a circle moving right", guidance_scale=3.0, guidance=[], pipe=pipe, **SHORT)
    guided = generate("a circle moving right", negative_prompt="red", guidance_scale=3.0, pipe=pipe, **SHORT)
    assert [guidance["name"] for guidance in guided.provenance["guidance"]] == ["NAG"]
    assert guided.provenance["trace"]["steps"] == 2
    assert not np.array_equal(guided.frames, plain.frames)


def test_audio_is_that_of_the_state() -> None:
    pipe = ltx2()
    short = {**SHORT, "width": 96, "max_sequence_length": 16}
    clip = generate("a circle", seed=3, model="modular", pipe=pipe, **short)
    call = dict(height=64, width=96, num_frames=9, num_inference_steps=2, max_sequence_length=16, output_type="np")
    state = pipe(prompt="a circle", frame_rate=clip.fps, **call, generator=_seeded(3))
    assert clip.audio is not None
    assert clip.audio_sample_rate == 24000
    assert np.array_equal(clip.audio, to_samples(state.get("audio")[0]))


def test_a_folder_is_loaded(tmp_path: Path) -> None:
    pipe = wan()
    pipe.save_pretrained(str(tmp_path / "model"), overwrite_modular_index=True)
    loaded = load(str(tmp_path / "model"), device="cpu", progress=False)
    assert type(loaded) is type(pipe)
    for name in ("transformer", "vae", "text_encoder"):
        assert next(getattr(loaded, name).parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match="offload='model': must be one of auto, none"):
        load(str(tmp_path / "model"), device="cpu", setup=Setup(offload="model"), progress=False)
    with pytest.raises(ValueError, match=r"shift=3\.0: a modular pipeline takes no setup here"):
        load(str(tmp_path / "model"), device="cpu", setup=Setup(shift=3.0), progress=False)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)
