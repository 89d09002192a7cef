"""Families through their own pipelines, with their own classifier-free guidance on: ready embeddings, no VAE."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from tiny_families import BY_NAME, Values
from torch import Tensor

from vidguide import CFG, NAG, guide
from vidguide.guidance import Guidance


def embeds(text: Values, prefix: str = "") -> Values:
    """Text inputs of a transformer as most pipelines call them."""
    names = {"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"}
    return {f"{prefix}{names[name]}": value for name, value in text.items()}


def with_masks(text: Values, prefix: str = "") -> Values:
    """EasyAnimate's pipelines ask for masks that they do not use."""
    length = text["encoder_hidden_states"].shape[1]
    return embeds({**text, "encoder_attention_mask": torch.ones(1, length)}, prefix)


def pooled(text: Values, prefix: str = "") -> Values:
    rest = {name: value for name, value in text.items() if name != "pooled_projections"}
    return embeds(rest, prefix) | {f"{prefix}pooled_prompt_embeds": text["pooled_projections"]}


def kandinsky(text: Values, prefix: str = "") -> Values:
    values = {"embeds_qwen": text["encoder_hidden_states"], "embeds_clip": text["pooled_projections"]}
    values["cu_seqlens"] = torch.tensor([0, text["encoder_hidden_states"].shape[1]], dtype=torch.int32)
    return {f"{prefix}prompt_{name}": value for name, value in values.items()}


def two_encoders(text: Values, prefix: str = "") -> Values:
    names = ("embeds", "embeds_mask", "embeds_2", "embeds_mask_2")
    return {f"{prefix}prompt_{name}": value for name, value in zip(names, text.values(), strict=True)}


def flat(text: Values, prefix: str = "") -> Values:
    """Allegro's pipeline itself adds the axis that its transformer gets."""
    return embeds({**text, "encoder_hidden_states": text["encoder_hidden_states"].squeeze(1)}, prefix)


class Sizes(torch.nn.Module):
    """What pipelines ask of a VAE that they do not run."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.config = SimpleNamespace(**values)
        for name, value in values.items():
            setattr(self, name, value)


@dataclass(frozen=True)
class Case:
    """A pipeline, a tiny transformer for it, how it takes text, and the rest of a call of a clip of that size."""

    pipeline: str
    tiny: str
    call: Values
    text: Callable[..., Values] = embeds
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    off: Values = field(default_factory=lambda: {"guidance_scale": 1.0})
    vae: Values | None = None
    parts: Callable[[], Values] = dict

    def pipe(self, on: bool) -> Any:
        real = getattr(diffusers, self.pipeline)
        parts: Values = dict.fromkeys(list(inspect.signature(real.__init__).parameters)[1:])
        parts |= {"transformer": BY_NAME[self.tiny].make(), "scheduler": getattr(diffusers, self.scheduler)()}
        if "guider" in parts:
            parts["guider"] = diffusers.ClassifierFreeGuidance(guidance_scale=3.0 if on else 1.0)
        parts.pop("force_zeros_for_empty_prompt", None)
        if self.vae is not None:
            parts["vae"] = Sizes(self.vae)
        parts |= self.parts()
        pipe = real(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def sample(self, pipe: Any, on: bool, *guidances: Guidance) -> Tensor:
        tiny = BY_NAME[self.tiny]
        texts = self.text(tiny.text(1, 7, 2)) | self.text(tiny.text(1, 7, 6), "negative_")
        settings = {} if on else {**self.off}
        generator = torch.Generator().manual_seed(0)
        with guide(pipe, *guidances):
            output = pipe(
                **texts, **{**self.call, **settings}, num_inference_steps=2, generator=generator, output_type="latent"
            )
        frames: Tensor = output.frames
        return frames


class Connectors(torch.nn.Module):
    """LTX-2's, as far as its pipelines see: of one text they make one for the video and one for the audio."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, embeds: Tensor, mask: Tensor, padding_side: str) -> tuple[Tensor, Tensor, Tensor]:
        return embeds, embeds.flip(-1), mask


def ltx2_parts() -> Values:
    channels = {"latents_mean": torch.zeros(4), "latents_std": torch.ones(4), "scaling_factor": 1.0}
    video = {**channels, "spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
    audio = {**channels, "mel_bins": 4, "latent_channels": 1, "mel_compression_ratio": 1}
    audio |= {"temporal_compression_ratio": 4, "sample_rate": 16000, "mel_hop_length": 160}
    return {"connectors": Connectors(), "vae": Sizes(video), "audio_vae": Sizes(audio)}


class LetsThrough:
    """Cosmos' pipelines insist on a safety checker; this one lets through what is not shown to anyone."""

    def to(self, device: Any) -> None: ...

    def check_text_safety(self, prompt: str) -> bool:
        return True


def before_connectors(text: Values, prefix: str = "") -> Values:
    return embeds({name: value for name, value in text.items() if not name.startswith("audio")}, prefix)


LATENT = {"height": 32, "width": 48, "guidance_scale": 3.0}
EVERY = [
    Case("LTXPipeline", "LTXVideoTransformer3DModel", {**LATENT, "height": 64, "width": 96, "num_frames": 9}),
    Case(
        "CogVideoXPipeline",
        "CogVideoXTransformer3DModel",
        {"height": 64, "width": 64, "num_frames": 9, "guidance_scale": 3.0, "max_sequence_length": 7},
        scheduler="CogVideoXDDIMScheduler",
    ),
    Case(
        "CogVideoXPipeline",
        "CogVideoXTransformer3DModel/rotary",
        {"height": 64, "width": 64, "num_frames": 9, "guidance_scale": 3.0, "use_dynamic_cfg": True},
        scheduler="CogVideoXDDIMScheduler",
    ),
    Case(
        "HunyuanVideoPipeline",
        "HunyuanVideoTransformer3DModel",
        {"height": 32, "width": 48, "num_frames": 5, "true_cfg_scale": 3.0},
        text=pooled,
        off={"true_cfg_scale": 1.0},
    ),
    Case(
        "HunyuanVideo15Pipeline",
        "HunyuanVideo15Transformer3DModel/text",
        {"height": 48, "width": 64, "num_frames": 5},
        text=two_encoders,
        off={},
        vae={"latent_channels": 4, "temporal_compression_ratio": 4, "spatial_compression_ratio": 16},
    ),
    Case("Kandinsky5T2VPipeline", "Kandinsky5Transformer3DModel", {**LATENT, "num_frames": 5}, text=kandinsky),
    Case("MochiPipeline", "MochiTransformer3DModel", {**LATENT, "num_frames": 7}),
    Case(
        "LattePipeline",
        "LatteTransformer3DModel",
        {"height": 64, "width": 64, "video_length": 3, "guidance_scale": 3.0, "negative_prompt": None},
        scheduler="DDIMScheduler",
    ),
    Case(
        "AllegroPipeline",
        "AllegroTransformer3DModel",
        {**LATENT, "num_frames": 8, "negative_prompt": None},
        text=flat,
        scheduler="DDIMScheduler",
    ),
    Case(
        "SanaVideoPipeline",
        "SanaVideoTransformer3DModel",
        {"height": 32, "width": 64, "frames": 5, "guidance_scale": 3.0, "use_resolution_binning": False}
        | {"negative_prompt": None},
    ),
    Case(
        "EasyAnimatePipeline",
        "EasyAnimateTransformer3DModel",
        {**LATENT, "num_frames": 5},
        text=with_masks,
        vae={"latent_channels": 4, "temporal_compression_ratio": 4, "spatial_compression_ratio": 8},
    ),
    Case(
        "LTX2Pipeline",
        "LTX2VideoTransformer3DModel/modulated",
        {"height": 64, "width": 96, "num_frames": 9, "guidance_scale": 3.0, "audio_guidance_scale": 3.0}
        | {"stg_scale": 1.0, "spatio_temporal_guidance_blocks": [1], "modality_scale": 2.0},
        text=before_connectors,
        off={"guidance_scale": 1.0, "audio_guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0},
        parts=ltx2_parts,
    ),
    Case(
        "CosmosTextToWorldPipeline",
        "CosmosTransformer3DModel",
        {**LATENT, "num_frames": 9, "guidance_scale": 2.0},  # it adds the difference to the conditional prediction
        scheduler="EDMEulerScheduler",
        parts=lambda: {"safety_checker": LetsThrough()},
    ),
    Case("WanPipeline", "WanTransformer3DModel", {**LATENT, "num_frames": 5}),
    Case("SkyReelsV2Pipeline", "SkyReelsV2Transformer3DModel", {**LATENT, "num_frames": 5}),
    Case(
        "MotifVideoPipeline",
        "MotifVideoTransformer3DModel/noisy",
        {"height": 32, "width": 48, "num_frames": 5},
        off={},
        vae={"z_dim": 4, "scale_factor_temporal": 4, "scale_factor_spatial": 8},
    ),
]


CASES = [case for case in EVERY if hasattr(diffusers, case.pipeline)]


@pytest.mark.parametrize("on", [True, False], ids=["cfg", "no cfg"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.pipeline}-{case.tiny.split('/')[-1]}")
def test_the_conditional_branch_alone_is_guided(case: Case, on: bool) -> None:
    """With the prompt for a negative nothing changes, though it is another text than the unconditional branch's."""
    pipe, tiny = case.pipe(on), BY_NAME[case.tiny]
    prompt, negative = tiny.text(1, 7, 2), tiny.text(1, tiny.length, 5)
    if "audio_encoder_hidden_states" in prompt:
        prompt["audio_encoder_hidden_states"] = prompt["encoder_hidden_states"].flip(-1)
    plain = case.sample(pipe, on)
    same = case.sample(pipe, on, NAG(negative_prompt_embeds=prompt))
    other = case.sample(pipe, on, NAG(negative_prompt_embeds=negative))
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-3)
    assert other.isfinite().all()
    assert (other - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["HunyuanVideoPipeline", "Kandinsky5T2VPipeline", "CogVideoXPipeline"])
def test_two_classifier_free_guidances_at_once_are_refused(name: str) -> None:
    """Also where the pipeline does not say whether it guides: by its second call, or by the scale it begins with."""
    case = next(case for case in CASES if case.pipeline == name)
    own = CFG(negative_prompt_embeds=BY_NAME[case.tiny].text(1, 7, 5))
    with pytest.raises(ValueError, match="CFG is in the list"):
        case.sample(case.pipe(True), True, own)
    assert case.sample(case.pipe(False), False, own).isfinite().all()


PLAIN = [case for case in CASES if case.pipeline != "LTX2Pipeline" and "use_dynamic_cfg" not in case.call]


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: f"{case.pipeline}-{case.tiny.split('/')[-1]}")
def test_our_classifier_free_guidance_is_the_pipelines_own(case: Case) -> None:
    """LTX-2 combines clean predictions, and dynamic scales are the pipeline's affair."""
    own = case.sample(case.pipe(True), True)
    cfg = CFG(scale=3.0, negative_prompt_embeds=BY_NAME[case.tiny].text(1, 7, 6))
    ours = case.sample(case.pipe(False), False, cfg)
    torch.testing.assert_close(ours, own, atol=1e-4, rtol=1e-3)
    assert (own - case.sample(case.pipe(False), False)).abs().max() > 1e-3
