"""Count what sweeps and files survive: kills, two runs at once, damaged and hostile files, and disks that are full.

`python benchmarks/faults.py` writes `results/faults.md` and `results/faults.json`. Every trial compares with the same
sweep undisturbed: each clip is there exactly once, with equal frames, its own JSON, and no other file. Processes are
killed by SIGKILL at a random time. The seed is printed; `--seed` repeats it. Needs Linux or macOS (fork).
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from reporting import write

from vidguide.clip import Clip, describe_file
from vidguide.eval.clips.read import read
from vidguide.eval.report.markdown_table import markdown_table
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.spec import WEIGHTS
from vidguide.pipelines.request.provenance import arguments_from, load_provenance
from vidguide.pipelines.sweep import run as sweep_run
from vidguide.pipelines.sweep.config import Sweep, read_sweep
from vidguide.pipelines.sweep.jobs import REQUEST, jobs
from vidguide.pipelines.sweep.lease import HeldError
from vidguide.pipelines.sweep.run import run

CONFIG: dict[str, Any] = {
    **{"model": "tiny-4step", "prompts": ["a large circle", "a small square"], "seeds": 3, "arms": ["none", "nag"]},
    **{"negative_prompt": "blue", "steps": 2, "height": 32, "width": 32, "frames": 5},
}
FORK = multiprocessing.get_context("fork")
HOSTILE: list[Any] = [None, True, 0, -1, 10**400, float("nan"), "", "Evil", "\0", [], [[]], {}, {"x": 1}, ["a"]]
Row = dict[str, Any]


def noise(prompt: str, *, seed: int, guidance: Any, **settings: Any) -> Clip:
    """Return a clip of noise that its arguments determine, so that a run spends its time on writing files."""
    rng = np.random.default_rng([*prompt.encode(), seed, guidance == ()])
    frames = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    return Clip(frames=frames, fps=8, provenance={"prompt": prompt, "seed": seed, "model": "noise", "guidance": []})


@contextmanager
def without_model() -> Iterator[None]:
    """Generate clips of noise in the context."""
    replaced: Any = sweep_run
    originals = replaced.load, replaced.generate
    pipe = SimpleNamespace(_execution_device=torch.device("cpu"))
    replaced.load, replaced.generate = lambda *args, **kwargs: pipe, noise
    try:
        yield
    finally:
        replaced.load, replaced.generate = originals


def make_sweep(folder: Path) -> Sweep:
    """Return the sweep of twelve clips."""
    (folder / "sweep.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return read_sweep(folder / "sweep.yaml")


def state(sweep: Sweep, folder: Path) -> dict[str, Any]:
    """Return the frames of every clip by path, after a check that its JSON is its own; other files by name."""
    frames_of: dict[str, Any] = {}
    expected = {path for job in jobs(sweep, folder) for path in (job.path, job.json_path)}
    for job in jobs(sweep, folder):
        content = json.loads(job.json_path.read_text())
        frames = read(job.path).sha256
        assert content[REQUEST] == json.loads(json.dumps(job.request)), job.json_path
        assert content["files"] == {job.path.name: describe_file(job.path)}, job.path
        assert content["sha256"] == frames, job.path
        frames_of[str(job.path.relative_to(folder))] = frames
    others = {path for path in folder.rglob("*") if path.is_file()} - expected
    return {**frames_of, "others": sorted(path.name for path in others)}


def in_child(target: Callable[[], object]) -> Any:
    """Start a function in a forked process."""
    process = FORK.Process(target=target)
    process.start()
    return process


def kill_runs(sweep: Sweep, count: int, draw: random.Random, root: Path) -> Row:
    """Kill `count` runs at random times, and continue each until it is complete."""
    reference = root / "reference"
    started = time.perf_counter()
    process = in_child(partial(run, sweep, reference))
    process.join()
    seconds, expected = time.perf_counter() - started, state(sweep, reference)
    kills, sweeps, outcomes, remade = 0, 0, Counter[str](), 0
    while kills < count:
        folder, sweeps = root / f"killed-{sweeps}", sweeps + 1
        for _ in range(draw.randrange(1, 4)):
            process = in_child(partial(run, sweep, folder))
            process.join(draw.uniform(0, seconds))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.join()
        remade += len(run(sweep, folder).remade)
        outcomes["equal" if state(sweep, folder) == expected else "different"] += 1
        shutil.rmtree(folder)
    return {"kills": kills, "sweeps": sweeps, "clips generated again": remade, **outcomes}


def run_two_at_once(sweep: Sweep, count: int, draw: random.Random, root: Path) -> Row:
    """Start two runs on one folder at once; the second is refused, or comes after the first."""
    outcomes: Counter[str] = Counter()

    def attempt(folder: Path, delay: float, log: Path) -> None:
        time.sleep(delay)
        with log.open("a") as file:
            try:
                file.write(f"{len(run(sweep, folder).made)}\n")
            except HeldError:
                file.write("refused\n")

    reference = state(sweep, run(sweep, root / "alone").paths[0].parents[2])
    for number in range(count):
        folder, log = root / f"two-{number}", root / f"two-{number}.txt"
        delays = [draw.uniform(0, 0.02) for _ in range(2)]
        processes = [in_child(partial(attempt, folder, delay, log)) for delay in delays]
        for process in processes:
            process.join()
        lines = sorted(log.read_text().split())
        outcomes[" and ".join(lines)] += 1
        run(sweep, folder)
        assert state(sweep, folder) == reference
    return {"pairs": count, **outcomes}


def damage_clips(sweep: Sweep, count: int, draw: random.Random, root: Path) -> Row:
    """Damage a random file of a complete sweep in a random way; the next run must notice and repair it."""
    folder = root / "damaged"
    paths = run(sweep, folder).paths
    expected, outcomes = state(sweep, folder), Counter[str]()
    for _ in range(count):
        path = draw.choice(paths)
        kind = draw.choice(["cut", "empty", "other clip", "bit", "removed", "JSON cut", "JSON empty", "JSON removed"])
        target = path.with_suffix(".json") if kind.startswith("JSON") else path
        content = bytearray(target.read_bytes())
        if kind.endswith("cut"):
            target.write_bytes(content[: draw.randrange(1, len(content) - 2)])
        elif kind.endswith("empty"):
            target.write_bytes(b"")
        elif kind == "other clip":
            shutil.copyfile(draw.choice([other for other in paths if other != path]), target)
        elif kind == "bit":
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            target.write_bytes(content)
        else:
            target.unlink()
        remade = run(sweep, folder).remade
        outcomes["repaired and named" if list(remade) == [path] and state(sweep, folder) == expected else kind] += 1
    return {"damaged files": count, **outcomes}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested JSON."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of nested JSON with another value at a path."""
    if not path:
        return value
    copy: Any = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = put(content[path[0]], path[1:], value)
    return copy


def read_hostile_json(source: Path, root: Path) -> Row:
    """Put every hostile value at every place of a clip's JSON, and read it as `--from` does."""
    content, path, outcomes = json.loads(source.read_text()), root / "hostile.json", Counter[str]()
    for place in places(content):
        for value in HOSTILE:
            path.write_text(json.dumps(put(content, place, value)))
            try:
                arguments_from(load_provenance(path))
                outcomes["accepted"] += 1
            except (ValueError, TypeError, OSError) as error:
                outcomes["refused with the file" if str(path) in str(error) else "refused without the file"] += 1
            except Exception as error:
                outcomes[type(error).__name__] += 1
    return {"files": sum(outcomes.values()), **outcomes}


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


FOLDERS: dict[str, Callable[[Path], object]] = {
    "pipeline class unknown": lambda model: edit(model / "model_index.json", _class_name="WanPipelin"),
    "pipeline class missing": lambda model: edit(model / "model_index.json", _class_name=None),
    "transformer class unknown": lambda model: edit(model / "model_index.json", transformer=["diffusers", "Wan9"]),
    "encoder class unknown": lambda model: edit(model / "model_index.json", text_encoder=["transformers", "T9"]),
    "library unknown": lambda model: edit(model / "model_index.json", transformer=["os", "system"]),
    "index entry of one": lambda model: edit(model / "model_index.json", vae=["diffusers"]),
    "index entry a number": lambda model: edit(model / "model_index.json", vae=3),
    "index cut": lambda model: (model / "model_index.json").write_text("{"),
    "index a list": lambda model: (model / "model_index.json").write_text("[]"),
    "index not UTF-8": lambda model: (model / "model_index.json").write_bytes(b"\xff\xfe"),
    "index missing": lambda model: (model / "model_index.json").unlink(),
    "transformer missing": lambda model: shutil.rmtree(model / "transformer"),
    "weights missing": lambda model: (model / "transformer/diffusion_pytorch_model.safetensors").unlink(),
    "weights empty": lambda model: (model / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b""),
    "weights cut": lambda model: os.truncate(model / "transformer/diffusion_pytorch_model.safetensors", 5000),
    "encoder weights missing": lambda model: (model / "text_encoder/model.safetensors").unlink(),
    "more layers than weights": lambda model: edit(model / "transformer/config.json", num_layers=9),
    "other width": lambda model: edit(model / "transformer/config.json", ffn_dim=64),
    "layers a text": lambda model: edit(model / "transformer/config.json", num_layers="x"),
    "config cut": lambda model: (model / "transformer/config.json").write_text("{"),
    "config a list": lambda model: (model / "transformer/config.json").write_text("[]"),
    "scheduler cut": lambda model: (model / "scheduler/scheduler_config.json").write_text("{"),
    "scheduler value a text": lambda model: edit(model / "scheduler/scheduler_config.json", num_train_timesteps="x"),
    "tokenizer cut": lambda model: (model / "tokenizer/tokenizer.json").write_text("{"),
}


def load_hostile_folders(root: Path) -> tuple[Row, list[list[str]]]:
    """Load copies of the shipped model with one thing wrong; return counts, and the message of each."""
    outcomes, messages = Counter[str](), []
    for name, change in FOLDERS.items():
        model = shutil.copytree(WEIGHTS / "tiny-4step", root / "model")
        change(model)
        try:
            load(str(model), device="cpu", progress=False)
            kind, text = "loaded", ""
        except (OSError, ImportError, ValueError) as error:
            named = str(error).startswith(f"model={str(model)!r}: ")
            kind, text = "refused with the model" if named else "refused without the model", str(error)
        except Exception as error:
            kind, text = type(error).__name__, str(error)
        outcomes[kind] += 1
        messages.append([name, text.replace(str(model), "MODEL").replace("\n", " ").replace("|", "/")[:160]])
        shutil.rmtree(model)
    return {"folders": len(FOLDERS), **outcomes}, messages


def fill_disk(sweep: Sweep, count: int, draw: random.Random, root: Path) -> Row:
    """Limit the size of files (`RLIMIT_FSIZE`) in a run; then continue without the limit."""
    reference = root / "no-limit"
    largest = max(path.stat().st_size for path in run(sweep, reference).paths)
    expected, outcomes = state(sweep, reference), Counter[str]()
    for number in range(count):
        folder, limit = root / f"full-{number}", draw.randrange(1, largest)

        def attempt(folder: Path = folder, limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                run(sweep, folder)
            except (OSError, HeldError):
                os._exit(3)

        process = in_child(attempt)
        process.join()
        outcomes["ended with an error" if process.exitcode == 3 else f"exit code {process.exitcode}"] += 1
        left = [path.name for path in folder.rglob(".*")]
        remade = run(sweep, folder).remade
        same = state(sweep, folder) == expected and not left
        outcomes["complete and equal afterwards" if same else "different afterwards"] += 1
        outcomes["clips that needed repair"] += len(remade)
    return {"limits": count, **outcomes}


def measure_cost(root: Path) -> Row:
    """Return milliseconds to write a clip of 81 frames of 480x832 without and with synchronization, and to check it."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (81, 30, 52, 3), dtype=np.uint8)
    clip = Clip(frames=low.repeat(16, 1).repeat(16, 2), fps=16)
    timed: dict[str, list[float]] = {"write": [], "hash": []}
    for _ in range(3):
        started = time.perf_counter()
        path = clip.save(root / "cost.mkv")
        timed["write"].append(time.perf_counter() - started)
        started = time.perf_counter()
        describe_file(path)
        timed["hash"].append(time.perf_counter() - started)
    seconds = {f"{name}, ms": round(1000 * min(values), 1) for name, values in timed.items()}
    return {"MB": round(path.stat().st_size / 1e6, 1), **seconds}


def measure(counts: dict[str, int], seed: int) -> dict[str, Any]:
    """Run all trials; returns counts by kind, and the messages about folders."""
    draw = random.Random(seed)
    result: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sweep = make_sweep(root)
        (root / "model").mkdir()
        result["kills, shipped model"] = kill_runs(sweep, counts["model_kills"], draw, root / "model")
        source = next((root / "model/reference").rglob("*.json"))
        result["JSON of a clip, hostile values"] = read_hostile_json(source, root)
        with without_model():
            (root / "noise").mkdir()
            result["kills, while files are written"] = kill_runs(sweep, counts["kills"], draw, root / "noise")
            result["two runs at once"] = run_two_at_once(sweep, counts["pairs"], draw, root / "noise")
            result["damaged files"] = damage_clips(sweep, counts["damages"], draw, root / "noise")
            result["disk full"] = fill_disk(sweep, counts["limits"], draw, root / "noise")
        (root / "folders").mkdir()
        result["model folders"], messages = load_hostile_folders(root / "folders")
        result["cost of SHA-256, 81 frames of 480x832"] = measure_cost(root)
    return {"seed": seed, "counts": result, "messages": messages}


def report(result: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    cells = {
        kind: "; ".join(f"{name}: {value}" for name, value in row.items()) for kind, row in result["counts"].items()
    }
    sizes = " ".join(f"--{name.replace('_', '-')} {size}" for name, size in result["sizes"].items())
    return (
        f"# Faults\n\nWhat sweeps and files survive: `python benchmarks/faults.py {sizes} --seed {result['seed']}`.\n\n"
        + markdown_table(["trial", "counts"], [[kind, text] for kind, text in cells.items()])
        + "\n\n## Messages about model folders\n\n"
        + markdown_table(["what is wrong", "message"], result["messages"])
        + "\n"
    )


def main() -> None:
    """Parse the arguments, run the trials, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"model_kills": 60, "kills": 200, "pairs": 50, "damages": 200, "limits": 30}
    for name, size in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = vars(parser.parse_args())
    print("seed", arguments["seed"], flush=True)
    chosen = {name: arguments[name] for name in sizes}
    result = {"sizes": chosen, **measure(chosen, arguments["seed"])}
    write("faults", report(result), result)


if __name__ == "__main__":
    main()
