"""Measure the cost of NAG over the unguided model, in cross-attention and joint attention, by video length.

    python benchmarks/nag_cost.py [--tokens 1024 4096 8192] [--repeats 5]

Two blocks with random weights, 4 heads of 64, 226 text tokens, float32. Each round times one call of every arm; the
table has the median over rounds of the ratio to the unguided call of the same round. "Published way" is, in
cross-attention, both texts projected and attended to at each call; in joint attention, a full attention per text.
"Doubled batch" is the cost of classifier-free guidance. Memory is the peak resident size relative to that before the
model is created, in one process per arm (Linux only).
"""

import argparse
import multiprocessing
import statistics
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers import CogVideoXTransformer3DModel, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from reporting import table, write
from rich.progress import track

from vidguide import NAG, guide
from vidguide.edits.nag_attention import JointAttentionNAG
from vidguide.functional.nag import nag

TEXT, HEADS, DIM, WIDTH = 226, 4, 64, 128
BLOCKS = dict(num_attention_heads=HEADS, attention_head_dim=DIM, in_channels=4, out_channels=4, num_layers=2)
ARMS = ("unguided", "NAG", "published way", "doubled batch")
KINDS = ("cross-attention", "joint attention")
STATUS = Path("/proc/self/status")


def wan(tokens: int) -> tuple[Any, dict[str, Any]]:
    """Return a Wan transformer and a call on a clip of `tokens` tokens."""
    model = WanTransformer3DModel(**BLOCKS, text_dim=WIDTH, freq_dim=64, ffn_dim=1024, rope_max_seq_len=1024)
    video = torch.randn(1, 4, tokens // 64, 16, 16)
    return model, dict(hidden_states=video, timestep=torch.full((1,), 500), encoder_hidden_states=text(1))


def cogvideox(tokens: int) -> tuple[Any, dict[str, Any]]:
    """Return a CogVideoX transformer and a call on a clip of `tokens` tokens."""
    settings = dict(text_embed_dim=WIDTH, time_embed_dim=64, use_rotary_positional_embeddings=True)
    model = CogVideoXTransformer3DModel(**BLOCKS, **settings)
    angles = torch.randn(tokens, DIM)
    call = dict(hidden_states=torch.randn(1, tokens // 64, 4, 16, 16), timestep=torch.full((1,), 500))
    return model, dict(call, encoder_hidden_states=text(1), image_rotary_emb=(angles.cos(), angles.sin()))


def text(seed: int) -> torch.Tensor:
    """Return embeddings of a prompt."""
    return torch.randn(1, TEXT, WIDTH, generator=torch.Generator().manual_seed(seed))


class PublishedNAGProcessor:
    """Cross-attention to prompt and negative, both projected at each call, and NAG."""

    def __init__(self, negative: torch.Tensor) -> None:
        self.negative = negative

    def __call__(self, attn: Any, hidden_states: Any, text: Any, mask: Any = None, rotary: Any = None) -> torch.Tensor:
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        positive, negative = (self.attend(attn, query, tokens) for tokens in (text, self.negative))
        return attn.to_out[0](nag(positive, negative, 11.0, 2.5, 0.25).output.to(positive.dtype).flatten(2))

    @staticmethod
    def attend(attn: Any, query: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the features `(B, L, H, D)` of attention to a text."""
        key = attn.norm_k(attn.to_k(tokens)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        value = attn.to_v(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def disable_merging(kind: str, arm: str) -> AbstractContextManager[Any]:
    """Disable the merge by log-sum-exp for the arm of the published joint attention."""
    if (kind, arm) != (KINDS[1], "published way"):
        return nullcontext()
    return patch.object(JointAttentionNAG, "may_merge", lambda *_: False)


def enter_guide(model: Any, stack: ExitStack) -> None:
    """Guide a model while the stack is open, in one run, so that the run cache is used by all calls."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    stack.enter_context(guide(model, NAG(negative_prompt_embeds=text(2)), scheduler=scheduler))
    scheduler.set_timesteps(4)


def prepare_arm(kind: str, arm: str, tokens: int, stack: ExitStack) -> tuple[Any, dict[str, Any]]:
    """Return the model and the call of an arm, after a first call that fills the run cache."""
    torch.manual_seed(0)
    model, call = (wan if kind == KINDS[0] else cogvideox)(tokens)
    model = model.eval().requires_grad_(False)
    if arm == "doubled batch":
        repeated = ("hidden_states", "timestep", "encoder_hidden_states")
        call = {name: torch.cat([value, value]) if name in repeated else value for name, value in call.items()}
    elif arm == "published way" and kind == KINDS[0]:
        for block in model.blocks:
            block.attn2.processor = PublishedNAGProcessor(model.condition_embedder.text_embedder(text(2)))
    elif arm != "unguided":
        enter_guide(model, stack)
    with disable_merging(kind, arm):
        model(**call)
    return model, call


def time_arms(kind: str, tokens: int, repeats: int) -> dict[str, float]:
    """Return the median time of each arm relative to the unguided one, and the unguided one's in seconds."""
    rounds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with ExitStack() as stack, torch.no_grad():
        models = {arm: prepare_arm(kind, arm, tokens, stack) for arm in ARMS}
        for _ in track(range(repeats), description=f"{kind} {tokens}"):
            for arm, (model, call) in models.items():
                with disable_merging(kind, arm):
                    begin = time.perf_counter()
                    model(**call)
                    rounds[arm].append(time.perf_counter() - begin)
    ratios = {arm: [a / b for a, b in zip(times, rounds[ARMS[0]], strict=True)] for arm, times in rounds.items()}
    medians = {arm: statistics.median(values) for arm, values in ratios.items()}
    return {**medians, "unguided": statistics.median(rounds[ARMS[0]])}


def process_memory(field: str) -> float:
    """Return the resident size (VmRSS) or its peak (VmHWM) of this process in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measure_peak(kind: str, arm: str, tokens: int) -> float:
    """Return the peak memory of two calls of an arm in MiB; requires a new process."""
    torch.set_num_threads(1)
    before = process_memory("VmRSS")
    with ExitStack() as stack, torch.no_grad():
        model, call = prepare_arm(kind, arm, tokens, stack)
        with disable_merging(kind, arm):
            model(**call)
    return process_memory("VmHWM") - before


def measure_peaks(kind: str, tokens: int) -> dict[str, float]:
    """Return the peak memory of each arm, measured in one process per arm."""
    if not STATUS.exists():
        return {}
    memory = {}
    for arm in ARMS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory[arm] = pool.apply(measure_peak, (kind, arm, tokens))
    return memory


def main() -> None:
    """Measure every family and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows, results = [], {}
    for kind in KINDS:
        for tokens in arguments.tokens:
            times, memory = time_arms(kind, tokens, arguments.repeats), measure_peaks(kind, tokens)
            results[f"{kind} {tokens}"] = {"time": times, "memory": memory}
            row = {"text by": kind, "video tokens": str(tokens), "unguided, s": f"{times['unguided']:.2f}"}
            row |= {f"{arm}, x": f"{times[arm]:.2f}" for arm in ARMS[1:]}
            rows.append(row | {f"{arm}, MiB": f"{memory[arm]:.0f}" if memory else "-" for arm in ARMS})
    write("nag_cost", table(rows), results)


if __name__ == "__main__":
    main()
