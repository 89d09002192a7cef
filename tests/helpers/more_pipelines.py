"""Further pipelines of the transformers of `tiny_pipelines`: from images and videos, distilled, and of long videos."""

import inspect
from types import SimpleNamespace

import diffusers
from torch import Tensor

from tests.helpers.tiny_encoders import clip_vision, siglip, t5, tokenizer
from tests.helpers.tiny_families import Values, noise
from tests.helpers.tiny_pipelines import (
    LATENT,
    AveragingVAE,
    Case,
    NoSafetyChecker,
    StubVAE,
    kandinsky,
    ltx2_parts,
    picture,
    pooled,
    two_encoders,
    with_audio_text,
    with_masks,
    without_audio_text,
)


def in_release(case: Case) -> bool:
    """Return whether the installed release of diffusers has the pipeline, and the arguments of the call."""
    if not hasattr(diffusers, case.pipeline):
        return False
    return set(case.call | case.off | case.cfg_only) <= set(inspect.signature(case.pipeline_class.__call__).parameters)


def vae() -> Values:
    return {"vae": AveragingVAE(4)}


def ltx2_with_vae() -> Values:
    return {**ltx2_parts(), "vae": AveragingVAE(4, 8, 32)}


class DoubledFrames(StubVAE):
    """Stub of LTX-2's temporal upsampler."""

    def forward(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(2, 2)[:, :, 1:]


def dfr_refine() -> Values:
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=0.5)
    return {**ltx2_with_vae(), "scheduler": scheduler, "temporal_latent_upsampler": DoubledFrames({})}


def flow_unipc() -> Values:
    flow: Values = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return {"scheduler": diffusers.UniPCMultistepScheduler(**flow)}


def cosmos() -> Values:
    return {"vae": AveragingVAE(4), "safety_checker": NoSafetyChecker()}


LTX = {**LATENT, "height": 64, "width": 96, "num_frames": 9}
LTX2: Values = {**LTX, "audio_guidance_scale": 3.0, "stg_scale": 1.0, "spatio_temporal_guidance_blocks": [1]}
LTX2 |= {"modality_scale": 2.0}
LTX2_OFF = {"guidance_scale": 1.0, "audio_guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
LTX2_OFF |= {"audio_modality_scale": 1.0, "audio_stg_scale": 0.0}
LTX2_CFG = {"stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0, "audio_stg_scale": 0.0}
LTX2_CFG |= {"guidance_rescale": 0.0, "audio_guidance_rescale": 0.0}
LTX2_TINY = "LTX2VideoTransformer3DModel/modulated"
KEYFRAMES = {"use_keyframes_abs_pos_embedding": True}
DISTILLED, DISTILLED_TO_0 = {"sigmas": [1.0, 0.5]}, {"sigmas": [1.0, 0.5, 0.0]}
COG = {"height": 64, "width": 64, "guidance_scale": 3.0}
FORCING: Values = {**LATENT, "num_frames": 9, "base_num_frames": 9}

ALL_CASES = [
    Case(
        "LTX2DFRPipeline",
        LTX2_TINY,
        {"height": 64, "width": 96, "num_frames": 25},
        text=without_audio_text,
        to_transformer=with_audio_text,
        off={},
        parts=ltx2_with_vae,
        config=KEYFRAMES,
        steps=DISTILLED,
    ),
    Case(
        "LTX2DFRTemporalRefinePipeline",
        LTX2_TINY,
        {"height": 64, "width": 96, "num_frames": 49, "latents": noise(1, 4, 7, 2, 3, seed=8)}
        | {"keyframes_latents": noise(1, 4, 2, 2, 3, seed=9), "keyframe_positions": [24, 48]}
        | {"audio_latents": noise(1, 1, 50, 4, seed=10)},
        text=without_audio_text,
        to_transformer=with_audio_text,
        off={},
        parts=dfr_refine,
        config=KEYFRAMES,
        steps=DISTILLED,
    ),
    Case(
        "WanImageToVideoPipeline",
        "WanTransformer3DModel/image",
        {**LATENT, "num_frames": 5, "image": picture()},
        parts=lambda: {"vae": AveragingVAE(4), **clip_vision()},
        config={"in_channels": 12},
        length=512,
    ),
    Case(
        "WanVideoToVideoPipeline",
        "WanTransformer3DModel",
        {**LATENT, "video": [picture()] * 5, "strength": 1.0},
        parts=vae,
    ),
    Case(
        "LTXImageToVideoPipeline",
        "LTXVideoTransformer3DModel",
        {**LTX, "image": picture(96, 64)},
        parts=lambda: {"vae": AveragingVAE(4, 8, 32)},
    ),
    Case(
        "LTXConditionPipeline",
        "LTXVideoTransformer3DModel",
        {**LTX, "image": picture(96, 64)},
        parts=lambda: {"vae": AveragingVAE(4, 8, 32)},
    ),
    Case(
        "LTX2ImageToVideoPipeline",
        LTX2_TINY,
        {**LTX2, "image": picture(96, 64), "image_crf": 0},
        text=without_audio_text,
        to_transformer=with_audio_text,
        off=LTX2_OFF,
        cfg_only=LTX2_CFG,
        parts=ltx2_with_vae,
    ),
    Case(
        "LTX2ConditionPipeline",
        LTX2_TINY,
        {**LTX2, "conditions": [SimpleNamespace(frames=picture(96, 64), index=1, strength=0.8, crf=0)]},
        text=without_audio_text,
        to_transformer=with_audio_text,
        off=LTX2_OFF,
        cfg_only=LTX2_CFG,
        parts=ltx2_with_vae,
    ),
    Case(
        "LTX2InContextPipeline",
        LTX2_TINY,
        {**LTX2, "reference_conditions": [SimpleNamespace(frames=[picture(96, 64)] * 9, strength=1.0)]},
        text=without_audio_text,
        to_transformer=with_audio_text,
        off=LTX2_OFF,
        cfg_only=LTX2_CFG,
        parts=ltx2_with_vae,
    ),
    Case(
        "LTX2HDRPipeline",
        LTX2_TINY,
        {**LTX, "reference_conditions": [SimpleNamespace(frames=[picture(96, 64)] * 9, strength=1.0)]},
        text=without_audio_text,
        to_transformer=with_audio_text,
        parts=lambda: {**ltx2_with_vae(), "hdr_transform": "logc3"},
    ),
    Case(
        "HunyuanVideo15ImageToVideoPipeline",
        "HunyuanVideo15Transformer3DModel",
        {"num_frames": 5, "image": picture(64, 48)},
        text=two_encoders,
        off={},
        parts=lambda: {"vae": AveragingVAE(4, 4, 16), **siglip()},
        config={"in_channels": 9},
    ),
    Case(
        "HunyuanSkyreelsImageToVideoPipeline",
        "HunyuanVideoTransformer3DModel",
        {"height": 32, "width": 48, "num_frames": 5, "true_cfg_scale": 3.0, "image": picture()},
        text=pooled,
        off={"true_cfg_scale": 1.0},
        parts=vae,
        config={"in_channels": 8},
    ),
    Case(
        "CogVideoXImageToVideoPipeline",
        "CogVideoXTransformer3DModel",
        {**COG, "num_frames": 9, "image": picture(64, 64)},
        scheduler="CogVideoXDDIMScheduler",
        parts=vae,
        config={"in_channels": 8},
    ),
    Case(
        "CogVideoXVideoToVideoPipeline",
        "CogVideoXTransformer3DModel",
        {**COG, "video": [picture(64, 64)] * 9, "strength": 1.0},
        scheduler="CogVideoXDDIMScheduler",
        parts=vae,
    ),
    Case(
        "CogVideoXFunControlPipeline",
        "CogVideoXTransformer3DModel",
        {**COG, "control_video": [picture(64, 64)] * 9},
        scheduler="CogVideoXDDIMScheduler",
        parts=vae,
        config={"in_channels": 8},
    ),
    Case(
        "Cosmos2VideoToWorldPipeline",
        "CosmosTransformer3DModel",
        {**LATENT, "guidance_scale": 2.0, "num_frames": 9, "image": picture()},
        parts=lambda: {**cosmos(), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)},
        config={"in_channels": 5},
    ),
    Case(
        "Cosmos2_5_PredictBasePipeline",
        "CosmosTransformer3DModel",
        {**LATENT, "guidance_scale": 2.0, "num_frames": 9, "video": [picture()] * 5},  # an image requires torchvision
        parts=lambda: {**cosmos(), **flow_unipc()},
        config={"in_channels": 5},
    ),
    Case(
        "CosmosVideoToWorldPipeline",
        "CosmosTransformer3DModel",
        {**LATENT, "guidance_scale": 2.0, "num_frames": 9, "image": picture()},
        scheduler="EDMEulerScheduler",
        parts=cosmos,
        config={"in_channels": 5},
    ),
    Case(
        "HeliosPyramidPipeline",
        "HeliosTransformer3DModel",
        {"height": 64, "width": 96, "guidance_scale": 3.0, "num_frames": 5, "num_latent_frames_per_chunk": 2}
        | {"use_zero_init": False},
        parts=lambda: {**vae(), "scheduler": diffusers.HeliosScheduler(stages=2, stage_range=[0, 0.5, 1])},
        steps={"pyramid_num_inference_steps_list": [2, 2]},
    ),
    Case(
        "Kandinsky5I2VPipeline",
        "Kandinsky5Transformer3DModel",
        {**LATENT, "num_frames": 21, "image": picture()},  # normalizes the first 4 latent frames like the others
        text=kandinsky,
        parts=vae,
        config={"visual_cond": True},
    ),
    Case(
        "MotifVideoImage2VideoPipeline",
        "MotifVideoTransformer3DModel/image",
        {"height": 32, "width": 48, "num_frames": 5, "image": picture(), "prompt": None},
        off={},
        parts=vae,
        config={"in_channels": 9},
    ),
    Case(
        "SanaImageToVideoPipeline",
        "SanaVideoTransformer3DModel",
        {"height": 32, "width": 64, "frames": 5, "guidance_scale": 3.0, "use_resolution_binning": False}
        | {"negative_prompt": None, "image": picture(64, 32)},
        parts=vae,
    ),
    Case(
        "SkyReelsV2ImageToVideoPipeline",
        "SkyReelsV2Transformer3DModel",
        {**LATENT, "num_frames": 5, "image": picture()},
        parts=lambda: {**vae(), **clip_vision()},
        config={"in_channels": 12, "image_dim": 8, "added_kv_proj_dim": 24},
        length=512,
    ),
    Case(
        "SkyReelsV2DiffusionForcingPipeline",
        "SkyReelsV2Transformer3DModel",
        {**FORCING, "prompt": None},
        parts=flow_unipc,
    ),
    Case(
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        "SkyReelsV2Transformer3DModel",
        {**FORCING, "image": picture()},
        parts=lambda: {**vae(), **flow_unipc()},
    ),
    Case(
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        "SkyReelsV2Transformer3DModel",
        {**FORCING, "num_frames": 13, "video": [picture()] * 5, "overlap_history": 5},
        parts=lambda: {**vae(), **flow_unipc()},
    ),
    Case(
        "EasyAnimateInpaintPipeline",
        "EasyAnimateTransformer3DModel",
        {**LATENT, "num_frames": 5, "video": noise(1, 3, 5, 32, 48, seed=8).sigmoid()}
        | {"mask_video": (noise(1, 1, 5, 32, 48, seed=9) > 0).float()},
        text=with_masks,
        parts=vae,
        config={"in_channels": 9},
    ),
    Case(
        "LucyEditPipeline",
        "WanTransformer3DModel",
        {**LATENT, "num_frames": 5, "video": [picture()] * 5},
        parts=vae,
        config={"in_channels": 8},
    ),
]
MORE_CASES = [case for case in ALL_CASES if in_release(case)]
LONG = Case(  # takes texts only
    "LTXI2VLongMultiPromptPipeline",
    "LTXVideoTransformer3DModel",
    {"height": 64, "width": 96, "num_frames": 25, "temporal_tile_size": 24, "temporal_overlap": 16}  # two windows
    | {"max_sequence_length": 16, "cond_image": picture(96, 64)},
    parts=lambda: {"vae": AveragingVAE(4, 8, 32), "text_encoder": t5(), "tokenizer": tokenizer()},
    scheduler="LTXEulerAncestralRFScheduler",
    config={"caption_channels": 10},
    steps=DISTILLED_TO_0,
)
BROKEN = Case(
    "EasyAnimateControlPipeline",
    "EasyAnimateTransformer3DModel",
    {**LATENT, "num_frames": 5, "control_video": noise(1, 3, 5, 32, 48, seed=8).sigmoid()},
    text=with_masks,
    parts=vae,
    config={"in_channels": 8},
)
REFUSED = Case(
    "Cosmos2_5_TransferPipeline",
    "CosmosTransformer3DModel",
    {},
    parts=lambda: {**cosmos(), **flow_unipc()},
    config={"img_context_dim_in": 8, "img_context_num_tokens": 4, "img_context_dim_out": 16},
)
