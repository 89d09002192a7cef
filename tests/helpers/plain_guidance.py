"""Runs of Wan and CogVideoX under several guidances at once, by the plain formulas with full passes."""

import copy
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.plain_cfg import plain_apg, plain_mambo_g, plain_tcfg, plain_zero_star
from tests.helpers.plain_emag import PlainJointAttention, PlainSelfAttention, plain_emag
from tests.helpers.plain_nag import PlainNAGProcessor
from vidguide import CADS, EMAG, NAG
from vidguide.functional.blur import blur_weights
from vidguide.functional.seeds import generator_at

Settings = dict[str, Any]
Calls = list[dict[str, Any]]
BOTH = {"CADS", "EMAG", "PAG", "SEG", "STG", "S2Guidance", "CFG", "APG", "CFGZeroStar", "TCFG", "MAMBOG"}
ORACLES = {"WanTransformer3DModel": {*BOTH, "NAG"}, "CogVideoXTransformer3DModel/rotary": BOTH}
CORRECTIONS = {"PAG": 3.0, "SEG": 3.0, "STG": 1.0, "S2Guidance": 0.25}  # with their default scales
SCALES = {"CFG": 5.0, "APG": 5.0, "CFGZeroStar": 5.0, "TCFG": 5.0, "MAMBOG": 10.0}


def active_steps(name: str, settings: Settings, steps: int) -> range:
    """Return the steps at which a guidance acts, from its window in fractions of the run."""
    if name == "CADS":
        return range(math.ceil(settings["none"] * steps))
    start, stop = (Fraction(settings.get(key, end)).limit_denominator(100) for key, end in (("start", 0), ("stop", 1)))
    return range(math.floor(start * steps), math.ceil(stop * steps))


def plain_predictions(
    model: Any, cond: Calls, uncond: Calls | None, negative: Tensor, scheduler: Any, guidances: dict[str, Settings]
) -> list[Tensor]:
    """Return the predictions that the model's caller receives at each step.

    Args:
        cond, uncond: calls of the conditional and the unconditional rows; without the latter, CFG is not the caller's.
        negative: `(1, L, C)`, text of NAG and of the CFG rules.
        scheduler: with its timesteps set.
    """
    steps, averages = len(cond), dict[str, Tensor]()
    acting = {name: active_steps(name, settings, steps) for name, settings in guidances.items()}
    cond = [noisy_call(call, step, steps, guidances.get("CADS")) for step, call in enumerate(cond)]
    edited = with_nag(model, cond, negative, guidances.get("NAG"), acting.get("NAG", range(0)))
    inside = with_emag(edited, cond, guidances.get("EMAG"))
    results = []
    for step, call in enumerate(cond):
        original = edited(**call)[0]
        shift = torch.zeros_like(original)
        for name in CORRECTIONS.keys() & guidances.keys():
            if step in acting[name]:
                scale = guidances[name].get("scale", CORRECTIONS[name])
                shift = shift + scale * (original - perturbed(name, guidances[name], edited, call))
        prediction = inside[step]
        for name in SCALES.keys() & guidances.keys():
            if step in acting[name]:
                other = model(**{**call, "encoder_hidden_states": negative.expand(len(original), -1, -1)})[0]
                prediction = combined(
                    name, guidances[name], prediction, other, Level(scheduler, step, call), step, averages
                )
        if uncond is None:
            results.append(prediction + shift)
        else:  # so that the caller's `u + w (c - u)` moves by the shift at any w
            results.append(torch.cat([model(**uncond[step])[0] + shift, prediction + shift]))
    return results


def noisy_call(call: dict[str, Any], step: int, steps: int, settings: Settings | None) -> dict[str, Any]:
    """Return a call with the prompt's noise of CADS: arXiv 2310.17347, eq. 4 and the rescaling below it."""
    if settings is None:
        return call
    cads, progress, prompt = CADS(**settings), step / steps, call["encoder_hidden_states"]
    share = min(max((progress - cads.full) / (cads.none - cads.full), 0.0), 1.0)
    rows = []
    for row, y in enumerate(prompt):
        n = torch.randn(y.shape, generator=generator_at(cads.seed + row, step))
        noisy = share**0.5 * y + cads.scale * (1 - share) ** 0.5 * n
        rescaled = (noisy - noisy.mean()) / noisy.std() * y.std() + y.mean()
        rows.append(y if share == 1 else cads.mixing * rescaled + (1 - cads.mixing) * noisy)
    return {**call, "encoder_hidden_states": torch.stack(rows)}


def with_nag(model: Any, calls: Calls, negative: Tensor, settings: Settings | None, steps: range) -> Any:
    """Return a copy of Wan that applies NAG in the calls of some steps, which it knows by their timesteps."""
    if settings is None:
        return model
    model = copy.deepcopy(model)
    times = {float(calls[step]["timestep"][0]) for step in steps}
    plain = [block.attn2.processor for block in model.blocks]
    embedded = model.condition_embedder.text_embedder(negative)
    guided = PlainNAGProcessor(embedded, NAG(negative_prompt_embeds=negative, **settings))

    def choose(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        active = float(kwargs["timestep"][0]) in times
        for block, processor in zip(module.blocks, plain, strict=True):
            block.attn2.processor = guided if active else processor

    model.register_forward_pre_hook(choose, with_kwargs=True)
    return model


def with_emag(model: Any, calls: Calls, settings: Settings | None) -> list[Tensor]:
    """Return the conditional predictions, with EMAG's correction."""
    if settings is None:
        return [model(**call)[0] for call in calls]
    emag = EMAG(**settings)
    layers = emag.select if isinstance(emag.select, tuple) else emag.layers
    assert layers is not None
    return plain_emag(model, calls, emag, layers)[0]


def perturbed(name: str, settings: Settings, model: Any, call: dict[str, Any]) -> Tensor:
    """Return the prediction of the weaker model: with layers skipped, or other attention in them."""
    model = copy.deepcopy(model)
    blocks = model.blocks if hasattr(model, "blocks") else model.transformer_blocks
    (layer,) = settings["layers"]
    if name == "S2Guidance" or (name == "STG" and "mode" not in settings):
        blocks[layer] = SkippedBlock(hasattr(model, "blocks"))
        return model(**call)[0]
    attention = PlainSelfAttention if hasattr(model, "blocks") else PlainJointAttention
    processor = attention("rotated query" if name == "SEG" else "map")
    blocks[layer].attn1.processor = processor
    model(**call)
    frames, height, width = call["hidden_states"].shape[2:] if hasattr(model, "blocks") else grid_of(call)
    grid = frames, height // 2, width // 2
    processor.replacement = blurred(processor.live, grid, settings["sigma"]) if name == "SEG" else identity(processor)
    return model(**call)[0]


def grid_of(call: dict[str, Any]) -> tuple[int, int, int]:
    """Return frames, height and width of CogVideoX's video `(B, F, C, H, W)`."""
    frames, _, height, width = call["hidden_states"].shape[1:]
    return frames, height, width


class SkippedBlock(torch.nn.Module):
    """A block that returns its input, of CogVideoX the video and the text."""

    def __init__(self, video_alone: bool) -> None:
        super().__init__()
        self.video_alone, self.attn2 = video_alone, torch.nn.Module()  # a place for NAG's processor

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        text = args[0] if args else kwargs.get("encoder_hidden_states")
        return hidden_states if self.video_alone else (hidden_states, text)


def identity(processor: Any) -> Tensor:
    """Return the map of the video's rows with which each token attends to itself; the text comes first."""
    rows, keys = processor.live.shape[-2:]
    return F.one_hot(torch.arange(keys - rows, keys), keys).to(processor.live).expand_as(processor.live)


def blurred(query: Tensor, grid: tuple[int, int, int], sigma: float) -> Tensor:
    """Return the query `(B, F H W, heads, C)` blurred over height and width of each frame."""
    video = query.unflatten(1, grid)
    vertical, horizontal = (
        torch.stack([blur_weights(size, sigma) @ one for one in torch.eye(size).double()], 1) for size in grid[1:]
    )
    return torch.einsum("hi,wj,bfijnc->bfhwnc", vertical, horizontal, video).flatten(1, 3)


class Level:
    """Noise level of a step: `x_t = alpha x_0 + sigma n`; x0 is `x_t - sigma v`, or `alpha x_t - sigma v` for DDIM."""

    def __init__(self, scheduler: Any, step: int, call: dict[str, Any]) -> None:
        self.sample = call["hidden_states"]
        if hasattr(scheduler, "sigmas"):
            self.offset, self.sigma = self.sample, scheduler.sigmas[step].double()
            return
        alpha = scheduler.alphas_cumprod[scheduler.timesteps[step].long()].double()
        self.offset, self.sigma = alpha.sqrt() * self.sample, (1 - alpha).sqrt()

    def x0(self, prediction: Tensor) -> Tensor:
        return self.offset - self.sigma * prediction

    def prediction(self, x0: Tensor) -> Tensor:
        return (self.offset - x0) / self.sigma


Rule = Callable[[Tensor, Tensor, float], Tensor]


def combined(
    name: str, settings: Settings, cond: Tensor, uncond: Tensor, level: Level, step: int, averages: dict[str, Tensor]
) -> Tensor:
    """Return a step's prediction by a rule of classifier-free guidance; `averages` has APG's of the steps before."""
    scale = settings.get("scale", SCALES[name])
    if name == "APG":
        eta, momentum = settings.get("eta", 0.0), settings.get("momentum", 0.0)
        radius = settings.get("radius", 15.0) * (cond[0].numel() / 65536) ** 0.5
        c, u, average = level.x0(cond), level.x0(uncond), averages.get(name)
        averages[name] = c - u + (0 if average is None else momentum * average)
        return level.prediction(plain_apg(c, u, scale, eta, radius, average, momentum))
    if name == "CFGZeroStar" and step < settings.get("zero_steps", 1):
        return torch.zeros_like(cond)
    alpha = settings.get("alpha", 8.0)
    rules: dict[str, Rule] = {
        "CFG": lambda c, u, w: w * c - (w - 1) * u,
        "CFGZeroStar": plain_zero_star,
        "TCFG": plain_tcfg,
        "MAMBOG": lambda c, u, w: plain_mambo_g(c, u, w, alpha),
    }
    return rules[name](cond, uncond, scale)
