"""Measure the cost of guidance on a GPU at common model sizes, in under eight minutes.

    python benchmarks/gpu.py [--models wan ltx] [--seconds 25] [--minutes 6] [--output FOLDER]
    python benchmarks/gpu.py --tiny --device cpu      # the same script at toy sizes, to test it

Random weights, no downloads. First every Triton kernel is checked against the eager formulas in float64; the script
exits if one is inexact. Then the kernels are timed as eager formulas, compiled, and in Triton, and compared with a copy
on the device. Then a step of each model is timed under every arm, arms alternating in each round, by CUDA events. "As
published" is NAG with both texts in a doubled batch of every attention, in joint attention in two full passes, and EMAG
with two more full passes, of both CFG branches. EMAG is timed at a step inside its window, unless the arm says before.
Memory is the peak of a step above the weights, including the run cache.
"""

import argparse
import inspect
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which diffusers does

import diffusers
import gpu_kernels
import reporting
from gpu_arms import Arms
from gpu_models import MODELS, Model
from gpu_timing import allocated, median_and_range, peak, rounds
from rich.progress import track
from torch.backends import cudnn

from vidguide.kernels import dispatch as kernels

CHECKED = [(2, 33, 3, 32), (1, 50, 5, 80), (1, 20, 24, 128), (1, 9, 2, 256)]
GIB = 2**30


def time_model(model: Model, on: dict[str, Any], seconds: float, least: int) -> dict[str, Any]:
    """Return milliseconds, and memory above the weights, of a step under every arm."""
    device, results = on["device"], dict[str, dict[str, Any]]()
    with torch.no_grad(), ExitStack() as stack:
        transformer = model.make(on)
        call = model.call(transformer, on)
        negative = model.texts(model, transformer.config, on)
        weights, functions = allocated(device), {}
        for name, make in Arms(transformer, model.is_complete, call, negative, stack).all().items():
            before = allocated(device)
            try:
                functions[name] = make()
            except (ValueError, LookupError) as error:  # the family does not support it
                results[name] = {"refused": str(error)}
                continue
            cached = allocated(device) - before
            results[name] = {"kept": cached, "peak": cached + peak(functions[name], device)}
        for name, times in rounds(functions, device, seconds, least).items():
            results[name]["ms"] = times
    return {"model": model.name, "built": model.built(), "tokens": model.tokens, "weights": weights, "arms": results}


def model_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Return the table rows of a model's arms."""
    rows: list[dict[str, str]] = []
    arms = result["arms"]
    base = {name: statistics.median(arms[name]["ms"]) for name in ("unguided", "CFG")}
    for name, arm in arms.items():
        row = {"model": f"{result['model']} ({result['tokens']:,} tokens; {result['built']})", "arm": name}
        if "refused" in arm:
            rows.append({**row, "ms a step": "not offered", "x unguided": "", "x CFG": "", "memory, GiB": ""})
            continue
        middle = statistics.median(arm["ms"])
        ratios = {f"x {name}": f"{middle / value:.2f}" for name, value in base.items()}
        rows.append(
            {**row, "ms a step": median_and_range(arm["ms"]), **ratios, "memory, GiB": f"{arm['peak'] / GIB:.2f}"}
        )
    return rows


def kernel_rows(results: list[dict[str, Any]], bandwidth: float) -> list[dict[str, str]]:
    """Return the table rows of the kernels, with their share of the bandwidth of a copy."""
    rows = []
    for result in results:
        row = {"computation": result["name"], "size": result["size"], "shape": "x".join(map(str, result["shape"]))}
        for way, times in result["ms"].items():
            speed = result["bytes"] / (statistics.median(times) / 1000)
            row |= {f"{way}, ms": median_and_range(times), f"{way}, % of a copy": f"{100 * speed / bandwidth:.3g}"}
        rows.append(row)
    return rows


def backend_rows(results: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the table rows of the attention backends with log-sum-exp."""
    return [
        {
            "attention with log-sum-exp": result["source"],
            "mask": "yes" if result["masked"] else "no",
            "off": f"{result['off']:.2g}" if "off" in result else result["error"],
            "ms, no mask": f"{result['ms']:.3g}" if "ms" in result else "",
        }
        for result in results
    ]


def feature_shape(model: Model) -> tuple[int, ...]:
    """Return the shape of a model's attention features."""
    defaults = inspect.signature(getattr(diffusers, model.transformer)).parameters
    names = ("num_attention_heads", "attention_head_dim")
    return (1, model.tokens, *(model.config.get(name, defaults[name].default) for name in names))


def gpu_versions(device: torch.device) -> dict[str, str]:
    """Return versions of the driver and libraries, in addition to those of every benchmark."""
    if device.type != "cuda":
        return {}
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"driver, memory": driver.stdout.strip(), "cuda": str(torch.version.cuda), "cudnn": str(cudnn.version())}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[""], help="parts of the names of the models to run")
    parser.add_argument("--seconds", type=float, default=25, help="time for the rounds of each model")
    parser.add_argument("--minutes", type=float, default=6, help="time after which no further model is started")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes; results are written to another folder")
    parser.add_argument("--output", type=Path, help="folder; benchmarks/results, or a new one for --tiny")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device cpu: the real sizes need a GPU; add --tiny")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: torch sees no GPU here; --tiny --device cpu runs the script anyway")
    parts = [part.lower() for part in arguments.models]
    arguments.models = [model for model in MODELS if any(part in model.name.lower() for part in parts)]
    if not arguments.models:
        parser.error(f"--models {' '.join(parts)}: none of {'; '.join(model.name for model in MODELS)}")
    return arguments


def main() -> None:
    """Check the kernels, then time kernels and models."""
    arguments, begin = parse_arguments(), time.perf_counter()
    tiny, device = arguments.tiny, torch.device(arguments.device)
    on: dict[str, Any] = {"device": device, "dtype": torch.float32 if device.type == "cpu" else torch.bfloat16}
    models = [model.toy() if tiny else model for model in arguments.models]
    folder = arguments.output or (Path(tempfile.mkdtemp()) if tiny else reporting.RESULTS)
    backend, seconds, least = ("aot_eager", 0.0, 2) if tiny else ("inductor", arguments.seconds, 3)

    checked = gpu_kernels.check(device, CHECKED[:1] if tiny else CHECKED)
    shapes = {model.name: feature_shape(model) for model in models}
    bandwidth = gpu_kernels.copy_bandwidth(device, 2**16 if tiny else GIB)
    timed = gpu_kernels.time_kernels(on, shapes, backend, 0.0 if tiny else 0.3, 1 if tiny else 5)
    attentions = gpu_kernels.time_backends(device, on["dtype"], next(iter(shapes.values())))
    results = []
    for model in track(models, description="models"):
        if time.perf_counter() - begin < 60 * arguments.minutes:
            results.append(time_model(model, on, seconds, least))
    skipped = [model.name for model in models[len(results) :]]

    speed = f"A copy within the device: {bandwidth / 1e9:,.0f} GB/s, read and written. Left out for lack of time: "
    speed += f"{'; '.join(skipped) or 'nothing'}.\n"
    parts = [kernel_rows(timed, bandwidth), backend_rows(attentions), [r for m in results for r in model_rows(m)]]
    markdown = f"# Guidance on {device.type}\n\n{speed}\n" + "\n".join(reporting.table(part) for part in parts if part)
    data = {"tiny": tiny, "copy": bandwidth, "checked": checked, "kernels": timed, "sources": attentions}
    data |= {"models": results, "left out": skipped, "in use": kernels.in_use(), "gpu": gpu_versions(device)}
    data["seconds"] = time.perf_counter() - begin
    reporting.write("gpu_tiny" if tiny else "gpu", markdown, data, folder)


if __name__ == "__main__":
    main()
