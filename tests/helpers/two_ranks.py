"""Runs in two processes that share a sequence, as diffusers' `enable_parallelism` splits it."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, FlowMatchEulerDiscreteScheduler
from diffusers.models import attention_dispatch
from torch import Tensor

from tests.helpers.tiny_families import BY_NAME, Tiny, Values, cast, noise
from vidguide import CADS, CFG, EMAG, NAG, PAG, SEG, STG, VSF, guide
from vidguide.calls.outputs import prediction_of
from vidguide.guidances.base import Guidance
from vidguide.guidances.head_probe import HeadProbe, ProbedError
from vidguide.kernels.lse_backends import LSE_BACKENDS, attend

RANKS, STEPS = 2, 3
SPLITS = {"Ulysses": "ulysses_degree", "ring": "ring_degree"}
WINDOW: dict[str, Any] = dict(start=0.25, stop=1.0)
GUIDANCES: dict[str, Callable[[Values], tuple[Guidance, ...]]] = {
    "nothing": lambda negative: (),
    "NAG": lambda negative: (NAG(negative_prompt_embeds=negative, scale=5),),
    "NAG by clip": lambda negative: (NAG(negative_prompt_embeds=negative, scale=5, tau=1.2, norm="clip"),),
    "NAG by frame": lambda negative: (NAG(negative_prompt_embeds=negative, scale=5, tau=1.2, norm="frame"),),
    "VSF": lambda negative: (VSF(negative_prompt_embeds=negative),),
    "EMAG": lambda negative: (EMAG(decay=0.5, scale=3, **WINDOW),),
    "EMAG, spatial": lambda negative: (EMAG(decay=0.5, scale=3, extent="spatial", **WINDOW),),
    "STG and PAG": lambda negative: (STG(mode="attention", scale=2, layers=(1,)), PAG(scale=2, layers=(0,))),
    "SEG": lambda negative: (SEG(scale=2, sigma=1.0, over_frames=True, layers=(1,)),),
    "CFG and CADS": lambda negative: (
        CFG(scale=3, negative_prompt_embeds=negative["encoder_hidden_states"][:, :8]),
        CADS(full=0.2, none=0.9),
    ),
    "NAG and EMAG": lambda negative: (
        NAG(negative_prompt_embeds=negative, scale=5),
        EMAG(decay=0.5, scale=3, **WINDOW),
    ),
}
PROFILE = "head profile"
Case = tuple[str, str, str]  # family, split, guidance


def main(rank: int, cases: list[Case], folder: str, device: str) -> None:
    """Run each case in one process and on both ranks, and save the results to a file."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.accelerator.device_count = lambda: 1  # 0 without an accelerator, and diffusers divides by it
        attention_dispatch._native_attention_forward_op = attention_with_lse
    backend = {"cpu": "gloo", "cuda": "nccl"}[device]
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    with torch.no_grad():
        torch.save({case: run_case(case, device) for case in cases}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def attention_with_lse(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *args: Any, **_: Any) -> Any:
    """Native attention with log-sum-exp, which ring attention requires and diffusers does not have on a CPU."""
    backend = next(backend for backend in LSE_BACKENDS if backend.device == "cpu")
    output, sums = attend(backend, query, key, value, mask)
    return (output, sums.squeeze(-1)) if args[4] else output


def run_case(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Return the result of one process and, with the same guidance, of both ranks."""
    name, split, kind = case
    tiny = BY_NAME[name]
    dtype = tiny.dtype if device == "cpu" else torch.float32
    single, parallel = (tiny.make().to(device, dtype) for _ in range(2))
    parallel.enable_parallelism(config=ContextParallelConfig(**{SPLITS[split]: RANKS}, convert_to_fp32=False))
    work = profile_heads if kind == PROFILE else sample
    inputs = calls(tiny, device, dtype)
    expected, result = (work(model, inputs, kind, tiny) for model in (single, parallel))
    return expected.cpu(), result.cpu()


def calls(tiny: Tiny, device: str, dtype: torch.dtype) -> list[Values]:
    """Return calls without a mask and with a text length that can be split. diffusers 0.42.1 does not split a mask by
    heads under Ulysses, and does not pass it on in a ring."""
    masks = {name: None for name in tiny.text(2, 8, 2) if name.endswith("mask")}
    inputs = cast({**tiny.inputs(2), **tiny.text(2, 8, 2), **masks}, dtype)
    on_device = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    shape = inputs["hidden_states"].shape
    return [{**on_device, "hidden_states": noise(*shape, seed=50 + step).to(device, dtype)} for step in range(STEPS)]


def sample(model: Any, calls: list[Values], kind: str, tiny: Tiny) -> Tensor:
    """Return the predictions of all steps."""
    scheduler, predictions = FlowMatchEulerDiscreteScheduler(), []
    guidances = GUIDANCES[kind](tiny.negative())
    with guide(model, *guidances, scheduler=scheduler) if guidances else nullcontext():
        scheduler.set_timesteps(len(calls))
        for inputs, timestep in zip(calls, scheduler.timesteps, strict=True):
            predictions.append(prediction_of(model(**inputs)))
            scheduler.step(predictions[-1], timestep, predictions[-1])
    return torch.stack(predictions)


def profile_heads(model: Any, calls: list[Values], kind: str, tiny: Tiny) -> Tensor:
    """Return the attention shares of the heads."""
    probe = HeadProbe()
    try:
        with guide(model, probe):
            model(**calls[0])
    except ProbedError:
        pass
    return torch.tensor([[head.within_frame, head.within_column] for head in probe.heads])
