"""Tiny pipelines of the most used families, and how to sample with them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.helpers.tiny_families import BY_NAME, Values
from tests.helpers.tiny_pipelines import CASES, Case
from vidguide import EMAG, NAG, STG
from vidguide.guidances.base import Guidance

STEPS = 4


@dataclass(frozen=True)
class Subject:
    """A pipeline at tiny size.

    Attributes:
        name: row or column name in the compatibility table.
        case: construction and call of the pipeline.
        extra_components: returns further components of the pipeline.
    """

    name: str
    case: Case
    extra_components: Callable[[], Values] = dict

    def pipe(self, cfg: bool = True, dtype: torch.dtype = torch.float32) -> Any:
        pipe = self.case.pipe(cfg)
        if extra := self.extra_components():
            pipe = type(pipe)(**{**pipe.components, **extra})
            pipe.set_progress_bar_config(disable=True)
        return pipe if dtype == torch.float32 else pipe.to(dtype)

    def text(self, batch: int, length: int, seed: int, dtype: torch.dtype = torch.float32) -> Values:
        text = BY_NAME[self.case.tiny].text(batch, length, seed)
        return {name: value.to(dtype) for name, value in text.items()}

    def sample(
        self, pipe: Any, *, cfg: bool = True, batch: int = 1, steps: int = STEPS, seed: int = 0, **call: Any
    ) -> Tensor:
        """Return the latents of a call of the pipeline."""
        dtype = call.pop("dtype", torch.float32)
        text, negative = (self.text(batch, 7, seed, dtype) for seed in (2, 6))
        settings = {**self.case.call, **({} if cfg else self.case.off)}
        settings |= self.case.text(text) | self.case.text(negative, "negative_")
        generator = torch.Generator().manual_seed(seed)
        output = pipe(**{**settings, **call}, num_inference_steps=steps, generator=generator, output_type="latent")
        frames: Tensor = output.frames
        return frames

    def negative(self, dtype: torch.dtype = torch.float32) -> Values:
        return self.text(1, BY_NAME[self.case.tiny].length, 5, dtype)


def transformers_of(pipe: Any) -> list[Any]:
    models = (getattr(pipe, name, None) for name in ("transformer", "transformer_2"))
    return [transformer for transformer in models if transformer is not None]


def case_of(pipeline: str) -> Case:
    return next(case for case in CASES if case.pipeline == pipeline)


def second_transformer() -> Values:
    """Return Wan 2.2's second expert for the less noisy half of the steps, with other weights than the first."""
    second = BY_NAME["WanTransformer3DModel"].make()
    for parameter in second.parameters():
        parameter.mul_(0.9)
    return {"transformer_2": second, "boundary_ratio": 0.5}


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("Wan", case_of("WanPipeline")),
        Subject("Wan, two transformers", case_of("WanPipeline"), second_transformer),
        Subject("LTX", case_of("LTXPipeline")),
        Subject("CogVideoX", case_of("CogVideoXPipeline")),
        Subject("HunyuanVideo", case_of("HunyuanVideoPipeline")),
        Subject("Mochi", case_of("MochiPipeline")),
    )
}
METHODS: dict[str, Callable[[Values], tuple[Guidance, ...]]] = {
    "NAG": lambda negative: (NAG(negative_prompt_embeds=negative, scale=5),),
    "EMAG": lambda negative: (EMAG(decay=0.5, start=0.2, stop=0.8, scale=3),),
    "STG": lambda negative: (STG(mode="attention", scale=2, layers=(1,)),),
    "NAG + EMAG": lambda negative: (
        NAG(negative_prompt_embeds=negative, scale=5),
        EMAG(decay=0.5, start=0.2, stop=0.8, scale=3),
    ),
}
