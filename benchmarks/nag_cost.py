"""What NAG costs beside the unguided model, by cross-attention and in joint attention, as the video grows.

    python benchmarks/nag_cost.py [--tokens 1024 4096 8192] [--repeats 5]

Two blocks of random weights, 4 heads of 64, 226 text tokens, float32. Each round times one call of every arm after
another, so that whatever else the machine does falls on all; the table has medians over the rounds of the ratio to the
same round's unguided call. "Two passes" is the published way in joint attention: a full attention per text.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from diffusers import CogVideoXTransformer3DModel, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from reporting import table, write
from rich.progress import track

from vidguide import NAG, guide
from vidguide.nag_edits import JointAttentionNAG

TEXT, HEADS, DIM, WIDTH = 226, 4, 64, 128
BLOCKS = dict(num_attention_heads=HEADS, attention_head_dim=DIM, in_channels=4, out_channels=4, num_layers=2)


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


@contextmanager
def two_passes() -> Iterator[None]:
    """Joint attention without merging by log-sum-exp."""
    own = JointAttentionNAG.__init__

    def init(self: Any, *args: Any) -> None:
        own(self, *args)
        self.merges = False

    with patch.object(JointAttentionNAG, "__init__", init):
        yield


def arms(make: Callable[[int], Any], tokens: int, stack: ExitStack) -> tuple[dict[str, Any], dict[str, Any]]:
    """Models by arm, each guided while the stack is open, and the call they get."""
    models: dict[str, Any] = {}
    for arm in ("unguided", "NAG", "two passes"):
        torch.manual_seed(0)
        model, call = make(tokens)
        models[arm] = model.eval().requires_grad_(False)
        if arm == "unguided":
            continue
        scheduler = FlowMatchEulerDiscreteScheduler()
        stack.enter_context(guide(model, NAG(negative_prompt_embeds=text(2)), scheduler=scheduler))
        scheduler.set_timesteps(4)  # begins a run: what is made of the negative is kept from call to call
        with two_passes() if arm == "two passes" else nullcontext():
            model(**call)
    return models, call


def ratios(make: Callable[[int], Any], tokens: int, repeats: int) -> dict[str, float]:
    """Median time of each arm over the unguided one's in the same round, and that one's in seconds."""
    rounds: dict[str, list[float]] = {"unguided, s": [], "NAG": [], "two passes": []}
    with ExitStack() as stack, torch.no_grad():
        models, call = arms(make, tokens, stack)
        for _ in track(range(repeats), description=f"{make.__name__} {tokens}"):
            times = {}
            for arm, model in models.items():
                begin = time.perf_counter()
                model(**call)
                times[arm] = time.perf_counter() - begin
            rounds["unguided, s"].append(times["unguided"])
            for arm in ("NAG", "two passes"):
                rounds[arm].append(times[arm] / times["unguided"])
    return {name: statistics.median(values) for name, values in rounds.items()}


def main() -> None:
    """Measure every family and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows, results = [], {}
    for make, kind in ((wan, "cross-attention"), (cogvideox, "joint attention")):
        for tokens in arguments.tokens:
            found = ratios(make, tokens, arguments.repeats)
            if kind == "cross-attention":
                del found["two passes"]
            results[f"{kind} {tokens}"] = found
            cells = {name: f"{value:.2f}" for name, value in found.items()}
            rows.append({"text by": kind, "video tokens": str(tokens), "two passes": "", **cells})
    write("nag_cost", rows_to_text(rows), results)


def rows_to_text(rows: list[dict[str, str]]) -> str:
    """The table, columns in one order."""
    columns = ("text by", "video tokens", "unguided, s", "NAG", "two passes")
    return table([{name: row[name] for name in columns} for row in rows])


if __name__ == "__main__":
    main()
