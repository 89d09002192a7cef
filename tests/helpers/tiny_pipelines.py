"""Pipelines of every family with tiny transformers, precomputed embeddings, and an averaging VAE where one runs."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from PIL import Image
from torch import Tensor

from tests.helpers.tiny_encoders import clip_vision, siglip
from tests.helpers.tiny_families import BY_NAME, Tiny, Values, cast
from vidguide import guide
from vidguide.guidances.base import Guidance
from vidguide.transformer.family import families


def embeds(text: Values, prefix: str = "") -> Values:
    """Return the text inputs of a transformer under the argument names of most pipelines."""
    names = {"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"}
    return {f"{prefix}{names[name]}": value for name, value in text.items()}


def with_masks(text: Values, prefix: str = "") -> Values:
    """Return embeddings and the masks that EasyAnimate's pipelines require and do not use."""
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


def without_third_axis(text: Values, prefix: str = "") -> Values:
    """Return embeddings without the axis that Allegro's pipeline adds."""
    return embeds({**text, "encoder_hidden_states": text["encoder_hidden_states"].squeeze(1)}, prefix)


def unmasked(text: Values) -> Values:
    """Return embeddings without masks, which Kandinsky 6 does not take."""
    return {name: value for name, value in text.items() if "mask" not in name}


def camera_text(text: Values, prefix: str = "") -> Values:
    return embeds({"encoder_attention_mask" if name == "mask" else name: value for name, value in text.items()}, prefix)


class StubVAE(torch.nn.Module):
    """Stub with the attributes of a VAE that pipelines read but do not run."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.config = SimpleNamespace(**values)
        for name, value in values.items():
            setattr(self, name, value)


class AveragingVAE(StubVAE):
    """VAE whose latents are means of pixels, for pipelines that start from an image."""

    z_dim: int
    spatial_compression_ratio: int
    temporal_compression_ratio: int

    def __init__(self, channels: int, frames: int = 4, size: int = 8) -> None:
        statistics: Values = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels, "scaling_factor": 1.0}
        strides = {"temporal_compression_ratio": frames, "spatial_compression_ratio": size}
        strides |= {"scale_factor_temporal": frames, "scale_factor_spatial": size}
        blocks = {"block_out_channels": [1] * size.bit_length(), "invert_scale_latents": False}
        super().__init__({"z_dim": channels, "latent_channels": channels, **statistics, **strides, **blocks})
        self.config.cache_mag_vae = True
        self.temperal_downsample = [False, *[True] * (frames.bit_length() - 1)]
        self.latents_mean, self.latents_std = torch.zeros(channels), torch.ones(channels)

    def encode(self, video: Tensor) -> AutoencoderKLOutput:
        frames, height, width = video.shape[2:]
        size = self.spatial_compression_ratio
        grid = ((frames - 1) // self.temporal_compression_ratio + 1, height // size, width // size)
        means = F.adaptive_avg_pool3d(video.float(), grid)[:, torch.arange(self.z_dim) % 3]
        parameters = torch.cat([means, torch.zeros_like(means)], 1)
        return AutoencoderKLOutput(DiagonalGaussianDistribution(parameters, deterministic=True))

    def decode(self, latents: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        frames = (latents.shape[2] - 1) * self.temporal_compression_ratio + 1
        size = self.spatial_compression_ratio
        grid = (frames, latents.shape[3] * size, latents.shape[4] * size)
        return (F.interpolate(latents[:, torch.arange(3) % self.z_dim].float(), grid),)


def picture(width: int = 48, height: int = 32) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


STEPS = 2


@dataclass(frozen=True)
class Case:
    """Pipeline with a tiny transformer: its text arguments, and the other arguments of a call.

    Attributes:
        config: changes to the configuration of the tiny transformer.
        off: arguments that disable the pipeline's guidance.
        cfg_only: arguments that disable the pipeline's guidance except CFG.
        vae: attributes of a VAE that the pipeline reads but does not run.
        parts: returns further components.
        to_transformer: maps text inputs of the pipeline to those of the transformer.
        length: text length, if the pipeline does not support 7.
        steps: arguments that set the number of steps to STEPS.
    """

    pipeline: str
    tiny: str
    call: Values
    text: Callable[..., Values] = embeds
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    off: Values = field(default_factory=lambda: {"guidance_scale": 1.0})
    cfg_only: Values = field(default_factory=dict)
    vae: Values | None = None
    parts: Callable[[], Values] = dict
    to_transformer: Callable[[Values], Values] = dict
    config: Values = field(default_factory=dict)
    length: int = 7
    steps: Values = field(default_factory=lambda: {"num_inference_steps": STEPS})

    @property
    def model(self) -> Tiny:
        tiny = BY_NAME[self.tiny]
        return replace(tiny, config={**tiny.config, **self.config})

    @property
    def has_cfg(self) -> bool:
        """Whether the pipeline has classifier-free guidance, and so a negative prompt."""
        return any("negative" in name for name in inspect.signature(self.pipeline_class.__call__).parameters)

    @property
    def has_guider(self) -> bool:
        return "guider" in inspect.signature(self.pipeline_class.__init__).parameters

    @property
    def counted(self) -> set[int]:
        """Numbers of steps of its runs; none under diffusion forcing, where each frame has its own scheduler."""
        return set() if "DiffusionForcing" in self.pipeline else {STEPS}

    def takes_negative(self, cfg_on: bool) -> bool:
        """Return whether a call without guidances takes a negative prompt; AnyFlow's doubles its text without CFG."""
        return self.has_cfg and (cfg_on or not families()[self.model.key].appends_negative)

    @property
    def pipeline_class(self) -> Any:
        return getattr(diffusers, self.pipeline)

    def text_inputs(self, seed: int) -> Values:
        """Return the text inputs of the transformer, as its pipeline passes them."""
        return self.to_transformer(self.model.text(1, self.length, seed))

    def pipe(self, cfg_on: bool) -> Any:
        parts: Values = dict.fromkeys(list(inspect.signature(self.pipeline_class.__init__).parameters)[1:])
        parts |= {"transformer": self.model.make(), "scheduler": getattr(diffusers, self.scheduler)()}
        if "guider" in parts:
            parts["guider"] = diffusers.ClassifierFreeGuidance(guidance_scale=3.0 if cfg_on else 1.0)
        parts.pop("force_zeros_for_empty_prompt", None)
        if self.vae is not None:
            parts["vae"] = StubVAE(self.vae)
        parts |= self.parts()
        pipe = self.pipeline_class(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def exact(self, cfg_on: bool, *guidances: Guidance, **call: Any) -> Tensor:
        """Return the latents of a pipeline whose transformer computes in the dtype of comparisons."""
        pipe = self.pipe(cfg_on)
        pipe.transformer.to(self.model.dtype)
        return self.sample(pipe, cfg_on, *guidances, **call)

    def arguments(self, pipe: Any, cfg_on: bool, **call: Any) -> Values:
        """Return the arguments of a call of the pipeline."""
        texts = self.text(self.text_inputs(2))
        if self.takes_negative(cfg_on):
            texts |= self.text(self.text_inputs(6), "negative_")
        texts = cast(texts, pipe.transformer.dtype)
        settings = {} if cfg_on else {**self.off}
        fixed = {"generator": torch.Generator().manual_seed(0), "output_type": "latent"}
        return {**texts, **self.call, **settings, **self.steps, **call, **fixed}

    def sample(self, pipe: Any, cfg_on: bool, *guidances: Guidance, **call: Any) -> Tensor:
        with guide(pipe, *guidances) as run:
            output = pipe(**self.arguments(pipe, cfg_on, **call))
        assert {trace.steps for trace in run.traces} - {0} == self.counted
        # A list has one entry per section.
        frames: Tensor = output.frames[-1] if isinstance(output.frames, list) else output.frames
        return frames


class Connectors(torch.nn.Module):
    """Stub of LTX-2's connectors: returns one text for the video and one for the audio."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, embeds: Tensor, mask: Tensor, padding_side: str) -> tuple[Tensor, Tensor, Tensor]:
        return embeds, embeds.flip(-1), mask


def ltx2_parts() -> Values:
    channels = {"latents_mean": torch.zeros(4), "latents_std": torch.ones(4), "scaling_factor": 1.0}
    video = {**channels, "spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
    audio = {**channels, "mel_bins": 4, "latent_channels": 1, "mel_compression_ratio": 1}
    audio |= {"temporal_compression_ratio": 4, "sample_rate": 16000, "mel_hop_length": 160}
    return {"connectors": Connectors(), "vae": StubVAE(video), "audio_vae": StubVAE(audio)}


class NoSafetyChecker:
    """Stub of the safety checker that Cosmos' pipelines require."""

    def to(self, device: Any) -> None: ...

    def check_text_safety(self, prompt: str) -> bool:
        return True


def with_audio_text(text: Values) -> Values:
    return {**text, "audio_encoder_hidden_states": text["encoder_hidden_states"].flip(-1)}


def without_audio_text(text: Values, prefix: str = "") -> Values:
    return embeds({name: value for name, value in text.items() if not name.startswith("audio")}, prefix)


LATENT = {"height": 32, "width": 48, "guidance_scale": 3.0}
ALL_CASES = [
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
        text=without_third_axis,
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
        text=without_audio_text,
        to_transformer=with_audio_text,
        off={"guidance_scale": 1.0, "audio_guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
        | {"audio_modality_scale": 1.0, "audio_stg_scale": 0.0},
        cfg_only={"stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0, "audio_stg_scale": 0.0}
        | {"guidance_rescale": 0.0, "audio_guidance_rescale": 0.0},
        parts=ltx2_parts,
    ),
    Case(
        "CosmosTextToWorldPipeline",
        "CosmosTransformer3DModel",
        {**LATENT, "num_frames": 9, "guidance_scale": 2.0},  # adds the difference to the conditional prediction
        scheduler="EDMEulerScheduler",
        parts=lambda: {"safety_checker": NoSafetyChecker()},
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
    Case(
        "WanVACEPipeline",
        "WanVACETransformer3DModel",
        {**LATENT, "num_frames": 5},
        parts=lambda: {"vae": AveragingVAE(4)},
        config={"vace_in_channels": 2 * 4 + 8 * 8},
    ),
    Case(
        "WanAnimatePipeline",
        "WanAnimateTransformer3DModel",
        {**LATENT, "segment_frame_length": 5, "image": picture(), "pose_video": [picture()] * 5}
        | {"face_video": [picture(16, 16)] * 5},
        parts=lambda: {"vae": AveragingVAE(4), **clip_vision()},
        config={"added_kv_proj_dim": 24},
        length=512,  # the processor assumes this length
    ),
    Case(
        "ChronoEditPipeline",
        "ChronoEditTransformer3DModel",
        {**LATENT, "num_frames": 5, "image": picture()},
        parts=lambda: {"vae": AveragingVAE(4), **clip_vision()},
        config={"in_channels": 12, "image_dim": 8, "added_kv_proj_dim": 24},
        length=512,
    ),
    Case(
        "AnyFlowPipeline",
        "AnyFlowTransformer3DModel",
        {**LATENT, "num_frames": 5},
        scheduler="FlowMapEulerDiscreteScheduler",
    ),
    Case(
        "AnyFlowFARPipeline",
        "AnyFlowFARTransformer3DModel",
        {**LATENT, "num_frames": 17, "chunk_partition": [1, 2, 2]},
        scheduler="FlowMapEulerDiscreteScheduler",
    ),
    Case(
        "HeliosPipeline",
        "HeliosTransformer3DModel",
        {**LATENT, "num_frames": 9, "num_latent_frames_per_chunk": 2},  # two chunks
        parts=lambda: {"vae": AveragingVAE(4), "scheduler": diffusers.HeliosScheduler(stages=1, stage_range=[0, 1])},
    ),
    Case(
        "Kandinsky6TI2VAPipeline",
        "Kandinsky6Transformer3DModel",
        {**LATENT, "num_frames": 5},
        text=pooled,
        to_transformer=unmasked,
        parts=lambda: {"audio_vae": StubVAE({"sample_rate": 16000, "latent_hop_length": 512}), "vocoder": StubVAE({})},
    ),
    Case(
        "ConsisIDPipeline",
        "ConsisIDTransformer3DModel",
        {"height": 64, "width": 64, "num_frames": 9, "guidance_scale": 3.0, "image": picture(64, 64)},
        scheduler="CogVideoXDDIMScheduler",
        parts=lambda: {"vae": AveragingVAE(4)},
        config={"in_channels": 8},
    ),
    Case(
        "HunyuanVideoImageToVideoPipeline",
        "HunyuanVideoTransformer3DModel/token_replace",
        {"height": 32, "width": 48, "num_frames": 5, "true_cfg_scale": 3.0, "image": picture()},
        text=pooled,
        off={"true_cfg_scale": 1.0},
        parts=lambda: {"vae": AveragingVAE(4)},
    ),
    Case(
        "HunyuanVideoFramepackPipeline",
        "HunyuanVideoFramepackTransformer3DModel",
        {"height": 64, "width": 64, "num_frames": 5, "true_cfg_scale": 3.0, "image": picture(64, 64)}
        | {"latent_window_size": 2},
        text=pooled,
        off={"true_cfg_scale": 1.0},
        parts=lambda: {"vae": AveragingVAE(4), **siglip()},
    ),
    Case(
        "SanaWMPipeline",
        "SanaWMTransformer3DModel",
        {"height": 64, "width": 96, "num_frames": 9, "guidance_scale": 3.0, "image": picture(96, 64), "prompt": ""}
        | {"c2w": np.eye(4)[None].repeat(9, 0), "intrinsics": [90.0, 90.0, 48.0, 32.0]},
        text=camera_text,
        parts=lambda: {"vae": AveragingVAE(4, 8, 32)},
        config={"chunk_plucker_channels": 48},
    ),
]
CASES = [case for case in ALL_CASES if hasattr(diffusers, case.pipeline)]


def name_of(case: Case) -> str:
    return f"{case.pipeline}-{case.tiny.split('/')[-1]}"
