"""Distil the shipped model into a student with four sampling steps and built-in guidance.

    python training/distil.py --steps 720 --output pipelines/weights/tiny-4step     # resumable, CPU or GPU

Needs only the teacher's folder: no clips, only captions. The teacher samples under classifier-free guidance with
`--substeps` steps per step of the student, and the student regresses the velocity that leads from one of its four
noise levels to the next in one step: progressive distillation (Salimans & Ho 2022, arXiv 2202.00512) in one stage, with
distilled guidance (Meng et al. 2023, arXiv 2210.03142). The text encoder is the teacher's.
"""

import argparse
import copy
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from export import set_tokenizer_class
from optimiser import SAVED_EVERY, Optimiser, device_for_training, load_state, save_state, seeded
from text import random_caption
from torch import Tensor, nn
from transformer import SHIFT, TextToVelocity, average_into, lengths_for, text_batch

from vidguide.eval.world.scene import all_scenes, held_out

STEPS = 4
TERMINAL = 0.5  # last noise level; diffusers' four-step schedule ends at 0.009, where the step has no effect
SHAPE = (8, 7, 16, 16)  # latents of 13 frames of 64 x 64
TRAJECTORIES = 32  # per round of the teacher
UPDATES = 6  # of the student per round; each jump is used three times on average
BATCH = 64
CAPACITY = 4096  # jumps in the buffer


def student_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler of the student: Euler steps at its noise levels."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT, shift_terminal=TERMINAL)


def noise_levels() -> Tensor:
    """Return the student's noise levels `(STEPS + 1,)`, from 1 to 0."""
    scheduler = student_scheduler()
    scheduler.set_timesteps(STEPS)
    return scheduler.sigmas


class Text:
    """Captions as inputs of the transformer: ids, mask and logit bias of the pads, for prompts and the empty text."""

    def __init__(self, tokenizer: Any, captions: list[str], lengths: np.ndarray, device: torch.device) -> None:
        self.prompt = [tensor.to(device) for tensor in text_batch(tokenizer, captions, lengths)]
        empty = text_batch(tokenizer, [""] * len(captions), lengths)
        self.both = [
            torch.cat([prompt, unconditional.to(device)])
            for prompt, unconditional in zip(self.prompt, empty, strict=True)
        ]


def guided_step(teacher: Any, latents: Tensor, text: Text, scale: float, level: Tensor, after: Tensor) -> Tensor:
    """Run one Euler step of the teacher under classifier-free guidance."""
    timestep = (level * 1000).expand(2 * len(latents)).to(latents)
    prompted, empty = teacher(torch.cat([latents, latents]), timestep, *text.both).float().chunk(2)
    return latents + (after - level).to(latents) * (empty + scale * (prompted - empty))


def trajectories(teacher: Any, text: Text, scale: float, substeps: int) -> list[tuple[Tensor, Tensor]]:
    """Return latents at each level of the student, with the velocity that leads to the next level in one step."""
    levels, latents = noise_levels(), torch.randn(len(text.prompt[0]), *SHAPE, device=text.prompt[0].device)
    jumps = []
    for level, after in pairwise(levels):
        start = latents
        fine = torch.lerp(level, after, torch.linspace(0, 1, substeps + 1))
        for current, following in pairwise(fine):
            latents = guided_step(teacher, latents, text, scale, current, following)
        jumps.append((start, (latents - start) / (after - level).to(latents)))
    return jumps


class JumpBuffer:
    """Buffer of the teacher's newest jumps, from which batches are drawn."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, ...]] = []

    def add(self, jumps: list[tuple[Tensor, Tensor]], text: Text) -> None:
        for (start, velocity), level in zip(jumps, noise_levels(), strict=False):
            timesteps = (level * 1000).expand(len(start))
            rows = (start.half().cpu(), velocity.half().cpu(), timesteps, *(tensor.cpu() for tensor in text.prompt))
            self.rows += zip(*(tensor.unbind() for tensor in rows), strict=True)
        self.rows = self.rows[-CAPACITY:]

    def draw(self, device: torch.device, random: np.random.Generator) -> list[Tensor]:
        rows = [self.rows[index] for index in random.integers(0, len(self.rows), BATCH)]
        start, velocity, *rest = (torch.stack(column).to(device) for column in zip(*rows, strict=True))
        return [start.float(), velocity.float(), *rest]


def load_teacher(folder: Path) -> tuple[WanPipeline, TextToVelocity]:
    """Load the teacher's pipeline, and its transformer and text encoder as one module."""
    pipe: WanPipeline = WanPipeline.from_pretrained(folder)
    model = TextToVelocity(len(pipe.tokenizer))
    model.text_encoder.load_state_dict(pipe.text_encoder.state_dict())
    model.transformer.load_state_dict(pipe.transformer.state_dict())
    return pipe, model.eval().requires_grad_(False)


def train(args: argparse.Namespace) -> tuple[WanPipeline, nn.Module]:
    """Distil for `args.steps` updates, and return the teacher's pipeline and the averaged student."""
    device, dtype = device_for_training()
    pipe, teacher = load_teacher(args.teacher)
    student = copy.deepcopy(teacher).to(device)
    student.transformer.requires_grad_(True)
    average = copy.deepcopy(student.transformer).eval().requires_grad_(False)
    optimiser = Optimiser(student, muon_lr=args.rate, adam_lr=args.rate / 2, steps=args.steps)
    path, finished, smooth = args.work / "student.pt", 0, None
    if path.exists():
        finished = load_state(path, student, optimiser)
        average.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    teach, learn = torch.compile(teacher.to(device).written_out()), torch.compile(student.written_out())
    scenes, jumps = [scene for scene in all_scenes() if not held_out(scene)], JumpBuffer()
    started = time.time()
    for first in range(finished, args.steps, UPDATES):
        random = seeded(args.seed, first)
        captions = [random_caption(scenes[index], random) for index in random.integers(0, len(scenes), TRAJECTORIES)]
        text = Text(pipe.tokenizer, captions, lengths_for(1.0, TRAJECTORIES, random), device)
        with torch.no_grad(), torch.autocast(device.type, dtype):
            jumps.add(trajectories(teach, text, args.guidance, args.substeps), text)
        for step in range(first, first + UPDATES):
            start, velocity, timestep, *words = jumps.draw(device, random)
            with torch.autocast(device.type, dtype):
                predicted = learn(start, timestep, *words)
            loss = (predicted.float() - velocity).square().mean()
            optimiser.step(loss, step)
            average_into(average, student.transformer, min(args.average, (1 + step) / (10 + step)))
            smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        done, elapsed = first + UPDATES, round(time.time() - started)
        if done % (4 * UPDATES) == 0:
            print(json.dumps(dict(step=done, seconds=elapsed, loss=round(smooth or 0, 5))), flush=True)
        if done % SAVED_EVERY < UPDATES or done >= args.steps:
            save_state(path, student, optimiser, done, average=average.state_dict())
    return pipe, average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=Path("pipelines/weights/tiny"))
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=720)
    parser.add_argument("--guidance", type=float, default=2.0, help="scale of the teacher's classifier-free guidance")
    parser.add_argument("--substeps", type=int, default=5, help="teacher's steps per step of the student")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--average", type=float, default=0.995)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pipe, student = train(args)
    pipe.transformer.load_state_dict(student.state_dict())
    pipe.register_modules(scheduler=student_scheduler())
    pipe.transformer.half()
    pipe.vae.half()
    pipe.save_pretrained(args.output, safe_serialization=True)
    set_tokenizer_class(args.output)


if __name__ == "__main__":
    main()
