"""Modular pipelines of diffusers at tiny size."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.modular_pipelines.modular_pipeline import SequentialPipelineBlocks
from torch import Tensor, nn

from tests.helpers.tiny_encoders import gemma3_and_connectors, qwen_and_byt5, t5, tokenizer
from tests.helpers.tiny_families import BY_NAME, Values, noise
from tests.helpers.tiny_pipelines import AveragingVAE, StubVAE, ltx2_parts

ECHO_STEPS = 8
ECHO: dict[str, Any] = dict(height=64, width=96, num_frames=9, max_sequence_length=16, output_type="latent")
STEPS = 2
PROMPT, NEGATIVE = "a red circle moves left", "blue"


def echo(tiny: str = "LTX2VideoTransformer3DModel/modulated", loop: Any = None) -> Any:
    """Return Echo with a tiny transformer, text encoder and connectors, and a VAE that averages.

    Args:
        tiny: name of the transformer. loop: replaces the pipeline's denoising loop.
    """
    parts = {**ltx2_parts(), **gemma3_and_connectors(), "vae": AveragingVAE(4, 8, 32)}
    pipe = diffusers.EchoModularPipeline()  # shares its blocks with all others
    if loop is not None:
        pipe._blocks = copy.deepcopy(pipe._blocks)
        pipe._blocks.sub_blocks["denoise"].sub_blocks["denoise_loop"] = loop
    pipe.update_components(transformer=BY_NAME[tiny].make(), **parts)
    echo_loop(pipe).set_progress_bar_config(disable=True)
    return pipe


def echo_loop(pipe: Any) -> Any:
    return pipe._blocks.sub_blocks["denoise"].sub_blocks["denoise_loop"]


def sample_echo(pipe: Any, **call: Any) -> Tensor:
    """Return the latents of a call, from the noise of seed 0."""
    generator = torch.Generator().manual_seed(0)
    latents: Tensor = pipe(**{"prompt": "blue", **ECHO, **call}, generator=generator, output="videos")
    return latents


def t5_and_tokenizer() -> Values:
    return {"text_encoder": t5(), "tokenizer": tokenizer()}


def ltx2_components() -> Values:
    parts = {**ltx2_parts(), **gemma3_and_connectors()}
    return {name: part for name, part in parts.items() if name != "vae"}


class Conditioner(StubVAE):
    """Stub of MiniMax-H3's text encoder, of whose 50th layer the pipeline takes the features."""

    def __init__(self) -> None:
        super().__init__({"text_config": SimpleNamespace(num_hidden_layers=64)})
        self.features = noise(64, 16, seed=4)

    @property
    def model(self) -> Callable[..., Any]:
        return self._hidden_states

    def _hidden_states(self, input_ids: Tensor, pixel_values: Tensor | None = None, **_: Any) -> SimpleNamespace:
        features = self.features[input_ids] + (0 if pixel_values is None else pixel_values.mean())
        return SimpleNamespace(hidden_states=[layer * features for layer in range(51)])


class Pictures:
    """Stub of the processor of pictures, which gives each four tokens."""

    merge_size = 1

    def __call__(self, images: list[Any], return_tensors: str) -> Values:
        means = [torch.from_numpy(np.array(image)).float().mean() / 255 for image in images]
        return {"pixel_values": torch.stack(means), "image_grid_thw": torch.tensor([[1, 2, 2]] * len(images))}


class Processor:
    """Stub of MiniMax-H3's processor."""

    image_processor = Pictures()

    def create_mm_token_type_ids(self, token_ids: list[list[int]]) -> list[list[int]]:
        return [[0] * len(row) for row in token_ids]


def h3_components() -> Values:
    schedulers = {"audio_scheduler": diffusers.MiniMaxH3Scheduler(3.0)}
    return {"text_encoder": Conditioner(), "tokenizer": tokenizer(), "processor": Processor(), **schedulers}


def flow_scheduler() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler()


@dataclass(frozen=True)
class ModularCase:
    """Text encoder and denoising blocks of a modular pipeline, with a tiny transformer.

    Attributes:
        name: class name without `ModularPipeline`.
        tiny: name of the transformer. config: changes to its configuration.
        call: arguments of a call. steps: number of steps that it counts.
        components: returns the components besides transformer, scheduler and guiders.
        scheduler: returns the scheduler.
        blocks: names of the blocks that are run.
        negatives: prefix of the state's fields that hold the encoded negative prompt.
    """

    name: str
    tiny: str
    call: Values
    config: Values = field(default_factory=dict)
    components: Callable[[], Values] = t5_and_tokenizer
    scheduler: Callable[[], Any] = flow_scheduler
    steps: int = STEPS
    blocks: tuple[str, ...] = ("text_encoder", "denoise")
    negatives: str = "negative_"

    @property
    def pipeline(self) -> str:
        return f"{self.name}ModularPipeline"

    @property
    def takes_guider(self) -> bool:
        """Whether it has a guider, and takes others than its own."""
        return self.components is not ltx2_components and "guider" in getattr(diffusers, self.pipeline)().components

    def transformer(self) -> nn.Module:
        tiny = BY_NAME[self.tiny]
        return replace(tiny, config={**tiny.config, **self.config}).make()

    def pipe(self) -> Any:
        """Return a pipeline of the class with its text encoder and denoising blocks."""
        whole = getattr(diffusers, self.pipeline)()
        blocks = {name: whole._blocks.sub_blocks[name] for name in self.blocks}
        pipe = type(whole)(blocks=copy.deepcopy(SequentialPipelineBlocks.from_blocks_dict(blocks)))
        parts = {"transformer": self.transformer(), **self.components()}
        parts |= {"transformer_2": self.transformer()} if "transformer_2" in pipe.components else {}
        parts |= {"scheduler": self.scheduler()} if "scheduler" in pipe.components else {}
        pipe.update_components(**parts)
        if "boundary_ratio" in pipe.config:
            pipe.update_components(boundary_ratio=0.9)
        hide_progress(pipe._blocks)
        return pipe

    def state(self, pipe: Any, **call: Any) -> Any:
        """Return the state after a call, from the noise of seed 0."""
        steps = (
            {}
            if "sigmas" in self.call or "pyramid_num_inference_steps_list" in self.call
            else {"num_inference_steps": STEPS}
        )
        call = {"prompt": PROMPT, **steps, **self.call, **call}
        if "text_encoder" not in pipe._blocks.sub_blocks:
            call = {name: value for name, value in call.items() if name not in ("prompt", "max_sequence_length")}
        return pipe(**call, generator=torch.Generator().manual_seed(0))

    def sample(self, pipe: Any, **call: Any) -> Tensor:
        """Return the latents of a call, or the frames where the pipeline decodes each segment."""
        values = self.state(pipe, **call).values
        if "segment_frames" in values:
            return torch.cat(values["segment_frames"], 2)
        latents: Tensor = values["latent_chunks"][-1] if "latent_chunks" in values else values["latents"]
        return latents


def hide_progress(block: Any) -> None:
    if hasattr(block, "set_progress_bar_config"):
        block.set_progress_bar_config(disable=True)
    for child in (block.sub_blocks or {}).values():
        hide_progress(child)


TEXT = {"text_dim": 10}  # width of the text encoder
IMAGE_TEXT = {**TEXT, "in_channels": 12}
WAN: Values = dict(height=32, width=48, num_frames=5, max_sequence_length=16, latents=noise(1, 4, 2, 4, 6, seed=8))
IMAGE: Values = {**WAN, "image_condition_latents": noise(1, 8, 2, 4, 6, seed=9)}
CONTROL: Values = {**WAN, "denoiser_input_fields": {"control_hidden_states": noise(1, 6, 2, 4, 6, seed=9)}}
LTX: Values = dict(height=64, width=96, num_frames=9, max_sequence_length=16)
HUNYUAN: Values = dict(height=48, width=64, num_frames=5, latents=noise(1, 4, 2, 3, 4, seed=8))
HELIOS: Values = dict(num_frames=9, num_latent_frames_per_chunk=2, max_sequence_length=16)
PYRAMID: Values = {**HELIOS, "num_frames": 5, "height": 64, "width": 96, "pyramid_num_inference_steps_list": [2, 1]}
LTX2 = "LTX2VideoTransformer3DModel/modulated"
ANIMATE: Values = {  # one segment of five frames; tests/adapters/test_cached_families.py has two
    "height": 32,
    "width": 48,
    "max_sequence_length": 16,
    "prompt_ref": "motion",
    "segment_frame_length": 5,
    "num_segments": 1,
    "effective_segment": 4,
    "driving_video_pixels": noise(1, 3, 5, 32, 48, seed=8),
    "reference_image_latents": noise(8, 1, 4, 6, seed=9),
    "condition_clip_context": noise(1, 3, 1280, seed=10),
    "denoiser_input_fields": {"encoder_hidden_states_image": noise(1, 3, 1280, seed=11)},
}

CASES = [
    ModularCase("Wan", "WanTransformer3DModel", WAN, TEXT),
    ModularCase(
        "WanImage2Video",
        "WanTransformer3DModel/image",
        {**IMAGE, "max_sequence_length": 512, "image_embeds": noise(1, 5, 8, seed=7)},
        IMAGE_TEXT,
    ),
    ModularCase("Wan22", "WanTransformer3DModel", WAN, TEXT),
    ModularCase("Wan22Image2Video", "WanTransformer3DModel", IMAGE, IMAGE_TEXT),
    ModularCase("Wan22Vace", "WanVACETransformer3DModel", CONTROL, TEXT),
    *(
        ModularCase(
            name,
            "WanAnimate2Transformer3DModel",
            ANIMATE,
            {**TEXT, "text_len": 16},
            components=lambda: {**t5_and_tokenizer(), "vae": AveragingVAE(4)},
        )
        for name in ("WanAnimate2", "WanAnimate2Distilled")
    ),
    ModularCase("LTX", "LTXVideoTransformer3DModel", LTX, {"caption_channels": 10}),
    ModularCase("LTX2", LTX2, LTX, components=ltx2_components),
    ModularCase("LTX25", LTX2, LTX, components=ltx2_components),
    ModularCase(
        "Echo",
        LTX2,
        {**LTX, "sigmas": [1.0, 0.7, 0.4, 0.0], "output_type": "latent"},
        components=lambda: {**ltx2_components(), "vae": AveragingVAE(4, 8, 32)},
        steps=3,
        blocks=("text_encoder", "denoise", "decode"),
        negatives="",
    ),
    ModularCase("HunyuanVideo15", "HunyuanVideo15Transformer3DModel/text", HUNYUAN, components=qwen_and_byt5),
    ModularCase(
        "Helios",
        "HeliosTransformer3DModel",
        {**HELIOS, "height": 32, "width": 48},
        TEXT,
        scheduler=lambda: diffusers.HeliosScheduler(stages=1, stage_range=[0, 1]),
    ),
    ModularCase(
        "HeliosPyramid",
        "HeliosTransformer3DModel",
        PYRAMID,
        TEXT,
        scheduler=lambda: diffusers.HeliosScheduler(stages=2, stage_range=[0, 0.5, 1]),
    ),
    ModularCase(
        "HeliosPyramidDistilled",
        "HeliosTransformer3DModel",
        {**PYRAMID, "is_amplify_first_chunk": False},
        TEXT,
        scheduler=lambda: diffusers.HeliosDMDScheduler(stages=2, stage_range=[0, 0.5, 1]),
    ),
    ModularCase(
        "MiniMaxH3",
        "MiniMaxH3Transformer3DModel",
        dict(height=64, width=96, num_frames=124, num_inference_steps=3),  # the last one takes no call
        {"in_channels": 24, "audio_in_channels": 32},
        components=h3_components,
        scheduler=lambda: diffusers.MiniMaxH3Scheduler(12.0),
        negatives="",
    ),
]
REFUSED = ("Cosmos3Omni", "Cosmos3Distilled")
