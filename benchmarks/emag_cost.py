"""Measure the cost of EMAG over classifier-free guidance alone, here and in the published implementation.

    python benchmarks/emag_cost.py [--steps 10] [--layers 12] [--rounds 11] [--short]

A Wan transformer with random weights, 2 heads of 64, 2,048 video tokens, 226 text tokens, float32, clips of one sample.

- CFG: a conditional and an unconditional prediction at each step.
- EMAG as published (github.com/drkkgy/EMAG): both predictions in one batch, and at every step a complete second pass of
  this batch. In the second pass the queries of the candidate layers are averaged after their norm, and those of the
  layer with the largest distance to its average in the previous step are replaced.
- EMAG here: `guide(model, CFG(...), EMAG())`; a perturbed pass on 6 of 10 steps, from the chosen layer on.
- EMAG, every 2 and 3: `EMAG(every=2)`, a perturbed pass on 3 of 10 steps, and `every=3`, on 2.

Arms alternate step by step, so that other load on the machine affects all equally. Times are processor times. The table
has the median over rounds of the ratio of total times. Peak memory is that of one process per arm, relative to the
process with the model loaded (Linux only). `--short` is three rounds without memory, for `make bench`.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from reporting import add_output, machine, ratios, table, write
from rich.progress import track

from vidguide import CFG, EMAG, guide
from vidguide.functional.cfg import cfg

SCALE, TEXT, WIDTH = 5.0, 226, 128
EVERY = {"EMAG here": 1, "EMAG, every 2": 2, "EMAG, every 3": 3}
ARMS = ("CFG", "EMAG as published", *EVERY)
Step = Callable[[int], Any]


def make(layers: int) -> Any:
    """Return the transformer, the same for every arm."""
    torch.manual_seed(0)
    sizes = dict(num_attention_heads=2, attention_head_dim=64, in_channels=4, out_channels=4, text_dim=WIDTH)
    sizes |= dict(freq_dim=64, ffn_dim=512, num_layers=layers, rope_max_seq_len=64)
    return WanTransformer3DModel(**sizes).eval().requires_grad_(False)


def inputs(step: int) -> dict[str, Any]:
    """Return the call of a step on a noisy clip of 8 x 16 x 16 tokens."""
    random = torch.Generator().manual_seed(step)
    video, text = torch.randn(1, 4, 8, 32, 32, generator=random), torch.randn(1, TEXT, WIDTH, generator=random)
    return dict(hidden_states=video, timestep=torch.full((1,), 900 - step), encoder_hidden_states=text)


def negative() -> torch.Tensor:
    """Return embeddings of the unconditional branch."""
    return torch.randn(1, TEXT, WIDTH, generator=torch.Generator().manual_seed(99))


def cfg_batch(call: dict[str, Any]) -> dict[str, Any]:
    """Return the unconditional and the conditional call in one batch."""
    both = {name: torch.cat([value, value]) for name, value in call.items()}
    return {**both, "encoder_hidden_states": torch.cat([negative(), call["encoder_hidden_states"]])}


class Published:
    """EMAG-Q in the schedule of the published code."""

    def __init__(self, model: Any, scale: float = 1.5, decay: float = 0.988) -> None:
        self.model, self.scale, self.decay = model, scale, decay
        self.averages: dict[int, torch.Tensor] = {}
        self.distance: dict[int, float] = {}
        self.perturbing, self.chosen = False, -1
        for layer in EMAG().candidates(len(model.blocks)):
            norm = model.blocks[layer].attn1.norm_q
            norm.register_forward_hook(lambda module, args, query, layer=layer: self.replace_query(layer, query))

    def replace_query(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        if not self.perturbing:
            return query
        average = self.averages.setdefault(layer, query.clone())
        average.mul_(self.decay).add_(query, alpha=1 - self.decay)
        self.distance[layer] = (average - query).abs().mean().item()
        return average if layer == self.chosen else query

    def step(self, number: int) -> torch.Tensor:
        call = cfg_batch(inputs(number))
        unperturbed = self.model(**call, return_dict=False)[0]
        self.chosen = max(self.distance, key=self.distance.__getitem__) if self.distance else -1
        self.perturbing = True
        perturbed = self.model(**call, return_dict=False)[0]
        self.perturbing = False
        uncond, cond = unperturbed.chunk(2)
        return cfg(perturbed[1:] + self.scale * (cond - perturbed[1:]), uncond, SCALE)


def make_step(arm: str, layers: int, steps: int, stack: ExitStack) -> Step:
    """Return the function that runs one step of an arm."""
    model = make(layers)
    if arm == "EMAG as published":
        return Published(model).step
    if arm == "CFG":

        def plain(number: int) -> Any:
            call = inputs(number)
            cond = model(**call, return_dict=False)[0]
            return cfg(cond, model(**{**call, "encoder_hidden_states": negative()}, return_dict=False)[0], SCALE)

        return plain
    scheduler = FlowMatchEulerDiscreteScheduler()
    guidances = (CFG(scale=SCALE, negative_prompt_embeds=negative()), EMAG(every=EVERY[arm]))
    stack.enter_context(guide(model, *guidances, scheduler=scheduler))

    def guided(number: int) -> Any:
        if number == 0:
            scheduler.set_timesteps(steps)
        prediction = model(**inputs(number), return_dict=False)[0]
        scheduler.step(prediction, scheduler.timesteps[number], prediction)
        return prediction

    return guided


@torch.no_grad()
def time_round(layers: int, steps: int) -> dict[str, float]:
    """Return the seconds of a run of each arm; arms alternate step by step."""
    seconds = dict.fromkeys(ARMS, 0.0)
    with ExitStack() as stack:
        arms = {arm: make_step(arm, layers, steps, stack) for arm in ARMS}
        for number in range(steps):
            for arm, step in arms.items():
                begin = time.process_time()
                step(number)
                seconds[arm] += time.process_time() - begin
    return seconds


@torch.no_grad()
def run_arm(arm: str, layers: int, steps: int) -> None:
    """Run one arm and print the memory of this process in MiB: with the model loaded, and the later peak."""
    with ExitStack() as stack:
        step = make_step(arm, layers, steps, stack)
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        before = process_memory("VmRSS")
        for number in range(steps):
            step(number)
    print(before, process_memory("VmHWM"))


def process_memory(name: str) -> int:
    """Return the memory of this process in MiB: VmRSS (current) or VmHWM (peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024


def measure_peak(arm: str, layers: int, steps: int) -> int:
    """Return the peak memory of a run of an arm in MiB, relative to the process with the model loaded."""
    command = [sys.executable, __file__, "--alone", arm, "--layers", str(layers), "--steps", str(steps)]
    before, after = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return int(after) - int(before)


def main() -> None:
    """Measure, print and write `benchmarks/results/emag_cost.{md,json}`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--short", action="store_true", help="three rounds, without memory")
    parser.add_argument("--alone", choices=ARMS, help="run one arm and print its peak memory")
    parser.add_argument("--note", default="", help="a sentence on the machine, for the result")
    add_output(parser)
    arguments = parser.parse_args()
    if arguments.alone:
        run_arm(arguments.alone, arguments.layers, arguments.steps)
        return
    number = 3 if arguments.short else arguments.rounds
    rounds = [time_round(arguments.layers, arguments.steps) for _ in track(range(number), "rounds")]
    memory = {} if arguments.short else {arm: measure_peak(arm, arguments.layers, 3) for arm in ARMS}
    times = {arm: [seconds[arm] for seconds in rounds] for arm in ARMS}
    relative = {arm: ratios(values, times["CFG"]) for arm, values in times.items()}
    rows = []
    for arm in ARMS:
        row = {"arm": arm, "processor seconds a step": f"{statistics.median(times[arm]) / arguments.steps:.2f}"}
        row |= {"time, x CFG": relative[arm].text}
        rows.append(row | {"peak memory, MiB": str(memory.get(arm, "-"))})
    about = f"{arguments.layers} layers, 2,048 tokens, {arguments.steps} steps"
    threads = machine()["threads"]
    conditions = f"\nOn a CPU, {threads} thread{'s' if threads > 1 else ''}. {about}, {number} rounds. {arguments.note}"
    results = {about: {arm: relative[arm] for arm in ARMS if arm != "CFG"}}
    data = {"ratios": results, "seconds": rounds, "memory": memory, "note": arguments.note}
    write("emag_cost", table(rows) + conditions.rstrip() + "\n", data, arguments.output)


if __name__ == "__main__":
    main()
