"""Measure the cost of NAG over the unguided model, in cross-attention and joint attention, by length of video and text.

    python benchmarks/nag_cost.py [--tokens 1024 4096 8192] [--rounds 11] [--memory] [--short]

Two blocks with random weights, 4 heads of 64 channels: of Wan (cross-attention; its padding is zeros that are attended
to), CogVideoX (joint attention without a mask) and HunyuanVideo (joint attention with a mask), in float32 and bfloat16.
A padded text has 8 tokens of 226 or 512 (Wan), or 60 of 256 (HunyuanVideo). Arms alternate in rounds, each one call in
process time; the table has the median of the ratio to the unguided call of the same round, and its range.

- NAG: `guide(model, NAG(...))`; in cross-attention also with `distinct_prompt=True`.
- published: in cross-attention, both texts projected and attended to at each call, and the combination of the published
  code (github.com/ChenDarYen/Normalized-Attention-Guidance): norms and ratio in the features' dtype, limited by
  `torch.minimum`. In joint attention, a full attention for each text, with NAG's combination.
- doubled batch: the cost of classifier-free guidance.

Memory is the peak resident size relative to that before the model is created, in one process per arm (Linux only).
`--short` is 1024 tokens without memory, for `make bench`.
"""

import argparse
import multiprocessing
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from reporting import Summary, add_output, ratios, summary, table, write
from rich.progress import track
from torch import Tensor

from vidguide import NAG, guide
from vidguide.edits.nag_attention import JointAttentionNAG

HEADS, DIM, WIDTH = 4, 64, 128
SIZES = dict(num_attention_heads=HEADS, attention_head_dim=DIM, in_channels=4, out_channels=4)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Wan": (
        "WanTransformer3DModel",
        dict(num_layers=2, text_dim=WIDTH, freq_dim=64, ffn_dim=1024, rope_max_seq_len=1024),
    ),
    "CogVideoX": (
        "CogVideoXTransformer3DModel",
        dict(num_layers=2, text_embed_dim=WIDTH, time_embed_dim=64, use_rotary_positional_embeddings=True),
    ),
    "HunyuanVideo": (
        "HunyuanVideoTransformer3DModel",
        dict(num_layers=1, num_single_layers=1, num_refiner_layers=1, text_embed_dim=WIDTH, pooled_projection_dim=64)
        | dict(rope_axes_dim=(16, 24, 24), mlp_ratio=4.0),
    ),
}
TEXTS = {"Wan": ((226, 226), (226, 8), (512, 512), (512, 8)), "CogVideoX": ((226, 226),)}  # length, and valid tokens
TEXTS["HunyuanVideo"] = ((256, 256), (256, 60))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ARMS = ("unguided", "NAG", "published", "doubled batch")
DISTINCT = "NAG, distinct prompt"  # for cross-attention
STRENGTH = (11.0, 2.5, 0.25)
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Case:
    """A model's call.

    Attributes:
        model: one of MODELS. tokens: of the video. text: length of the text. valid: its tokens that are no padding.
        dtype: one of DTYPES.
    """

    model: str
    tokens: int
    text: int
    valid: int
    dtype: str

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that its attention has."""
        return (*ARMS, DISTINCT) if self.model == "Wan" else ARMS

    @property
    def name(self) -> str:
        """A key for results."""
        return f"{self.model}, {self.tokens} tokens, {self.valid} of {self.text} text tokens, {self.dtype}"

    def embeddings(self, seed: int) -> dict[str, Tensor]:
        """Return the text inputs of a prompt: random embeddings, zeros for padding."""
        random = torch.Generator().manual_seed(seed)
        text = torch.randn(1, self.text, WIDTH, generator=random)
        text[:, self.valid :] = 0
        text = text.to(DTYPES[self.dtype])
        inputs = {"encoder_hidden_states": text}
        if self.model == "HunyuanVideo":
            inputs["encoder_attention_mask"] = (torch.arange(self.text) < self.valid)[None].to(text.dtype)
            inputs["pooled_projections"] = torch.randn(1, 64, generator=random).to(text.dtype)
        return inputs

    def call(self) -> dict[str, Any]:
        """Return the arguments of a call on a clip of 8 x 8 tokens a frame."""
        frames = self.tokens // 64
        video = torch.randn(1, 4, frames, 16, 16)
        call: dict[str, Any] = {"timestep": torch.full((1,), 500), **self.embeddings(1)}
        if self.model == "CogVideoX":
            angles = torch.randn(self.tokens, DIM)
            call["image_rotary_emb"] = (angles.cos(), angles.sin())
            video = video.transpose(1, 2)
        elif self.model == "HunyuanVideo":
            call["guidance"] = torch.full((1,), 6000.0)
        return {**call, "hidden_states": video.to(DTYPES[self.dtype])}

    def make(self) -> Any:
        """Return the model, the same for every arm."""
        torch.manual_seed(0)
        name, settings = MODELS[self.model]
        model = getattr(diffusers, name)(**SIZES, **settings).eval().requires_grad_(False)
        return model.to(DTYPES[self.dtype])


class PublishedNAGProcessor:
    """Cross-attention to prompt and negative, both projected at each call, and the published combination."""

    def __init__(self, negative: Tensor) -> None:
        self.negative = negative

    def __call__(self, attn: Any, hidden_states: Any, text: Any, mask: Any = None, rotary: Any = None) -> Tensor:
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        positive, negative = (self.attend(attn, query, tokens) for tokens in (text, self.negative))
        return attn.to_out[0](published_combination(positive.flatten(2), negative.flatten(2)))

    @staticmethod
    def attend(attn: Any, query: Tensor, tokens: Tensor) -> Tensor:
        """Return the features `(B, L, H, D)` of attention to a text."""
        key = attn.norm_k(attn.to_k(tokens)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        value = attn.to_v(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def published_combination(positive: Tensor, negative: Tensor) -> Tensor:
    """Combine features `(B, L, C)` by one operation after another, in their dtype, as the published code does."""
    scale, tau, alpha = STRENGTH
    guided = scale * positive - (scale - 1) * negative
    ratio = torch.norm(guided, 1, -1, keepdim=True) / torch.norm(positive, 1, -1, keepdim=True)
    limited = guided * torch.minimum(ratio, ratio.new_full((1,), tau)) / ratio
    return alpha * limited + (1 - alpha) * positive


def disable_merging(case: Case, arm: str) -> AbstractContextManager[Any]:
    """Disable the merge by log-sum-exp for the arm of the published joint attention."""
    if arm != "published" or case.model == "Wan":
        return nullcontext()
    return patch.object(JointAttentionNAG, "may_merge", lambda *_: False)


def enter_guide(model: Any, negative: Mapping[str, Tensor], stack: ExitStack, distinct: bool) -> None:
    """Guide a model while the stack is open, in one run, so that the run cache is used by all calls."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scale, tau, alpha = STRENGTH
    settings: dict[str, Any] = dict(scale=scale, tau=tau, alpha=alpha, distinct_prompt=distinct)
    guidance = NAG(negative_prompt_embeds=negative, **settings)
    stack.enter_context(guide(model, guidance, scheduler=scheduler))
    scheduler.set_timesteps(4)


def prepare_arm(case: Case, arm: str, stack: ExitStack) -> tuple[Any, dict[str, Any]]:
    """Return the model and the call of an arm, after a first call that fills the run cache."""
    model, negative = case.make(), case.embeddings(2)
    torch.manual_seed(1)
    call = case.call()
    if arm == "doubled batch":
        call = {name: torch.cat([value, value]) if isinstance(value, Tensor) else value for name, value in call.items()}
    elif arm == "published" and case.model == "Wan":
        for block in model.blocks:
            embedded = model.condition_embedder.text_embedder(negative["encoder_hidden_states"])
            block.attn2.processor = PublishedNAGProcessor(embedded)
    elif arm != "unguided":
        enter_guide(model, negative, stack, arm == DISTINCT)
    with disable_merging(case, arm):
        model(**call)
    return model, call


def time_arms(case: Case, rounds: int) -> dict[str, Summary]:
    """Return each arm's time relative to the unguided one, and the unguided one's in seconds."""
    times: dict[str, list[float]] = {arm: [] for arm in case.arms}
    with ExitStack() as stack, torch.no_grad():
        models = {arm: prepare_arm(case, arm, stack) for arm in case.arms}
        for _ in range(rounds):
            for arm, (model, call) in models.items():
                with disable_merging(case, arm):
                    begin = time.process_time()
                    model(**call)
                    times[arm].append(time.process_time() - begin)
    return {arm: ratios(values, times["unguided"]) for arm, values in times.items()} | {
        "unguided": summary(times["unguided"])
    }


def process_memory(field: str) -> float:
    """Return the resident size (VmRSS) or its peak (VmHWM) of this process in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measure_peak(case: Case, arm: str) -> float:
    """Return the peak memory of two calls of an arm in MiB; requires a new process."""
    torch.set_num_threads(1)
    before = process_memory("VmRSS")
    with ExitStack() as stack, torch.no_grad():
        model, call = prepare_arm(case, arm, stack)
        with disable_merging(case, arm):
            model(**call)
    return process_memory("VmHWM") - before


def measure_peaks(case: Case) -> dict[str, float]:
    """Return the peak memory of each arm, measured in one process per arm."""
    memory = {}
    for arm in case.arms:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory[arm] = pool.apply(measure_peak, (case, arm))
    return memory


def cases(tokens: list[int]) -> list[Case]:
    """Return all calls at these lengths."""
    return [
        Case(model, length, text, valid, dtype)
        for model, texts in TEXTS.items()
        for length in tokens
        for text, valid in texts
        for dtype in DTYPES
    ]


def row(case: Case, times: Mapping[str, Summary], memory: Mapping[str, float]) -> dict[str, str]:
    """Return the table's row of a case."""
    columns = {"model": case.model, "video": str(case.tokens), "text": f"{case.valid} of {case.text}"}
    columns |= {"dtype": case.dtype, "unguided, s": f"{times['unguided'].median:.3f}"}
    columns |= {f"{arm}, x": times[arm].text if arm in times else "-" for arm in (*ARMS[1:], DISTINCT)}
    return columns | {f"{arm}, MiB": f"{value:.0f}" for arm, value in memory.items()}


def main() -> None:
    """Measure every model, length, text and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--memory", action="store_true", help="measure the peak memory too")
    parser.add_argument("--short", action="store_true", help="1024 tokens only, without memory")
    add_output(parser)
    arguments = parser.parse_args()
    rows, results, seconds, memory = [], {}, {}, {}
    for case in track(cases([1024] if arguments.short else arguments.tokens), "cases"):
        times = time_arms(case, arguments.rounds)
        peaks = measure_peaks(case) if arguments.memory and not arguments.short else {}
        rows.append(row(case, times, peaks))
        results[case.name] = {arm: times[arm] for arm in case.arms[1:]}
        seconds[case.name], memory[case.name] = times["unguided"], peaks
    about = f"\nMedian and range of {arguments.rounds} rounds of process time.\n"
    data = {"ratios": results, "seconds": seconds, "memory": memory, "rounds": arguments.rounds}
    write("nag_cost", table(rows) + about, data, arguments.output)


if __name__ == "__main__":
    main()
