"""Shared code of the training scripts: Muon and AdamW, a schedule in steps, saved state."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

WARMUP = 0.03  # shares of the steps
DECAY = 0.5
SAVED_EVERY = 100  # steps


def device_for_training() -> tuple[torch.device, torch.dtype]:
    """Return the GPU if there is one, else the CPU, and the autocast dtype bfloat16."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.bfloat16


class Optimiser:
    """Muon (scaling of arXiv 2502.16982) for weight matrices and flattened convolution kernels; AdamW for the rest.

    The learning rate warms up, is constant, and decreases linearly to zero over the last half of `steps`. A
    run that is interrupted and resumed has the same schedule as one that is not.
    """

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float, steps: int) -> None:
        self.steps = steps
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrix = [(p, nn.Parameter(p.data.view(p.shape[0], -1))) for name, p in named if self.is_matrix(name, p)]
        rest = [p for name, p in named if not self.is_matrix(name, p)]
        self.views = matrix
        self.muon = torch.optim.Muon(
            [view for _, view in matrix], lr=muon_lr, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.peaks = [(self.muon, muon_lr), (self.adam, adam_lr)]

    @staticmethod
    def is_matrix(name: str, parameter: nn.Parameter) -> bool:
        flat = parameter.view(parameter.shape[0], -1).shape if parameter.ndim >= 2 else (0, 0)
        lookup = any(part in name for part in ("table", "shared", "embed_tokens"))
        return parameter.ndim >= 2 and min(flat) >= 8 and not lookup

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, relative to its peak."""
        share = min(step / self.steps, 1.0)
        return min((share + 1e-3) / WARMUP, 1.0, max(1 - share, 0.0) / DECAY)

    def step(self, loss: torch.Tensor, step: int) -> None:
        """Update the parameters by the gradients of the loss, at the learning rate of the step."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for parameter, view in self.views:
            view.grad = None if parameter.grad is None else parameter.grad.view_as(view)
        for optimiser, peak in self.peaks:
            for group in optimiser.param_groups:
                group["lr"] = peak * self.rate(step)
            optimiser.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def seeded(seed: int, step: int) -> np.random.Generator:
    """Seed torch for a step, and return a generator for it, so that a resumed run draws what an unbroken one draws."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
    return np.random.default_rng([seed, step])


def save_state(path: Path, model: nn.Module, optimiser: Optimiser, step: int, **more: Any) -> None:
    """Write the state that resumes a run, atomically."""
    state = dict(model=model.state_dict(), optimiser=optimiser.state_dict(), step=step, **more)
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_state(path: Path, model: nn.Module, optimiser: Optimiser | None = None) -> int:
    """Read the state of :func:`save_state`, and return the number of steps so far."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    if optimiser is not None:
        optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
