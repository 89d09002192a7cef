"""What NAG costs beside the unguided model, by cross-attention and in joint attention, as the video grows.

    python benchmarks/nag_cost.py [--tokens 1024 4096 8192] [--repeats 5]

Two blocks of random weights, 4 heads of 64, 226 text tokens, float32. Each round times one call of every arm after
another, so that whatever else the machine does falls on all; the table has medians over the rounds of the ratio to the
same round's unguided call. "Published way" is, by cross-attention, both texts projected and attended to at each call;
in joint attention, a full attention per text. "Doubled batch" is what classifier-free guidance takes. Memory is the
largest resident size over that before the model is made, in a process of its own for each arm (Linux only).
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
    """A Wan transformer and a call of it on a clip of so many tokens."""
    model = WanTransformer3DModel(**BLOCKS, text_dim=WIDTH, freq_dim=64, ffn_dim=1024, rope_max_seq_len=1024)
    video = torch.randn(1, 4, tokens // 64, 16, 16)
    return model, dict(hidden_states=video, timestep=torch.full((1,), 500), encoder_hidden_states=text(1))


def cogvideox(tokens: int) -> tuple[Any, dict[str, Any]]:
    """A CogVideoX transformer and a call of it."""
    settings = dict(text_embed_dim=WIDTH, time_embed_dim=64, use_rotary_positional_embeddings=True)
    model = CogVideoXTransformer3DModel(**BLOCKS, **settings)
    angles = torch.randn(tokens, DIM)
    call = dict(hidden_states=torch.randn(1, tokens // 64, 4, 16, 16), timestep=torch.full((1,), 500))
    return model, dict(call, encoder_hidden_states=text(1), image_rotary_emb=(angles.cos(), angles.sin()))


def text(seed: int) -> torch.Tensor:
    """Embeddings of a prompt."""
    return torch.randn(1, TEXT, WIDTH, generator=torch.Generator().manual_seed(seed))


class BothTexts:
    """Cross-attention to the prompt and to the negative, both projected at each call, then NAG."""

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


def two_passes(kind: str, arm: str) -> AbstractContextManager[Any]:
    """Joint attention without merging by log-sum-exp, as published, for the arm that is."""
    if (kind, arm) != (KINDS[1], "published way"):
        return nullcontext()
    return patch.object(JointAttentionNAG, "may_merge", lambda *_: False)


def guided(model: Any, stack: ExitStack) -> None:
    """Guide a model while the stack is open, in one run: what is made of the negative is kept from call to call."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    stack.enter_context(guide(model, NAG(negative_prompt_embeds=text(2)), scheduler=scheduler))
    scheduler.set_timesteps(4)


def prepared(kind: str, arm: str, tokens: int, stack: ExitStack) -> tuple[Any, dict[str, Any]]:
    """The model of an arm and the call that it gets, after a first one, in which what is kept is made."""
    torch.manual_seed(0)
    model, call = (wan if kind == KINDS[0] else cogvideox)(tokens)
    model = model.eval().requires_grad_(False)
    if arm == "doubled batch":
        doubled = ("hidden_states", "timestep", "encoder_hidden_states")
        call = {name: torch.cat([value, value]) if name in doubled else value for name, value in call.items()}
    elif arm == "published way" and kind == KINDS[0]:
        for block in model.blocks:
            block.attn2.processor = BothTexts(model.condition_embedder.text_embedder(text(2)))
    elif arm != "unguided":
        guided(model, stack)
    with two_passes(kind, arm):
        model(**call)
    return model, call


def seconds(kind: str, tokens: int, repeats: int) -> dict[str, float]:
    """Median time of each arm over the unguided one's in the same round, and that one's in seconds."""
    rounds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with ExitStack() as stack, torch.no_grad():
        models = {arm: prepared(kind, arm, tokens, stack) for arm in ARMS}
        for _ in track(range(repeats), description=f"{kind} {tokens}"):
            for arm, (model, call) in models.items():
                with two_passes(kind, arm):
                    begin = time.perf_counter()
                    model(**call)
                    rounds[arm].append(time.perf_counter() - begin)
    ratios = {arm: [a / b for a, b in zip(times, rounds[ARMS[0]], strict=True)] for arm, times in rounds.items()}
    found = {arm: statistics.median(values) for arm, values in ratios.items()}
    return {**found, "unguided": statistics.median(rounds[ARMS[0]])}


def memory_now(field: str) -> float:
    """Resident size (VmRSS) or the largest so far (VmHWM) of this process, MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak(kind: str, arm: str, tokens: int) -> float:
    """How much memory two calls of an arm take at most, MiB; to be asked in a fresh process."""
    torch.set_num_threads(1)
    before = memory_now("VmRSS")
    with ExitStack() as stack, torch.no_grad():
        model, call = prepared(kind, arm, tokens, stack)
        with two_passes(kind, arm):
            model(**call)
    return memory_now("VmHWM") - before


def peaks(kind: str, tokens: int) -> dict[str, float]:
    """Peak memory of each arm, each in a process of its own."""
    if not STATUS.exists():
        return {}
    found = {}
    for arm in ARMS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[arm] = pool.apply(peak, (kind, arm, tokens))
    return found


def main() -> None:
    """Measure every family and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows, results = [], {}
    for kind in KINDS:
        for tokens in arguments.tokens:
            times, memory = seconds(kind, tokens, arguments.repeats), peaks(kind, tokens)
            results[f"{kind} {tokens}"] = {"time": times, "memory": memory}
            row = {"text by": kind, "video tokens": str(tokens), "unguided, s": f"{times['unguided']:.2f}"}
            row |= {f"{arm}, x": f"{times[arm]:.2f}" for arm in ARMS[1:]}
            rows.append(row | {f"{arm}, MiB": f"{memory[arm]:.0f}" if memory else "-" for arm in ARMS})
    write("nag_cost", table(rows), results)


if __name__ == "__main__":
    main()
