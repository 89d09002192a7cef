"""Record the results of guided calls, to verify that a change of the code changes no bit.

    python benchmarks/record_outputs.py OUTPUT.json [--only PATTERN]
    python benchmarks/record_outputs.py --compare A.json B.json

Runs guidances on the tests' random pipelines and transformers and on the shipped models, with one CPU thread, and
writes for each case the SHA-256 of all output tensors and of the trace without times; for a refusal, the type of the
exception. `--compare` lists the cases that differ or are in one file only, and exits with 1 if there are any. Hashes
depend on the machine and the version of torch. To compare two checkouts, run this file with `PYTHONPATH` set to each of
them: `vidguide` and the tests' pipelines are imported from there.
"""

import argparse
import fnmatch
import hashlib
import importlib
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from typer.testing import CliRunner

import vidguide
from vidguide import APG, CADS, CFG, EMAG, NAG, PAG, SEG, STG, VSF, CFGZeroStar, generate, guide

ROOT = Path(vidguide.__file__).parents[1]
sys.path.insert(0, str(ROOT))
BY_NAME: dict[str, Any] = importlib.import_module("tests.helpers.tiny_families").BY_NAME
CASES: list[Any] = importlib.import_module("tests.helpers.tiny_pipelines").CASES

Values = dict[str, Any]
Recording = tuple[Any, Any]  # outputs, trace
Guidances = tuple[Any, ...]
Arm = Callable[[Values, Values], Guidances]  # of the negative prompt's text and the unconditional branch's

STEPS = 4
PROMPT = "a large circle moving right"
EARLY: Values = dict(decay=0.5, scale=3, start=0.25, stop=1.0)
ARMS: dict[str, Arm] = {
    "nothing": lambda negative, empty: (),
    "NAG": lambda negative, empty: (NAG(negative_prompt_embeds=negative, scale=5),),
    "VSF": lambda negative, empty: (VSF(negative_prompt_embeds=negative),),
    "EMAG": lambda negative, empty: (EMAG(**EARLY),),
    "STG": lambda negative, empty: (STG(mode="attention", scale=2, layers=(1,)),),
    "SEG": lambda negative, empty: (SEG(sigma=1.0, layers=(1,)),),
    "CFG": lambda negative, empty: (CFG(scale=3, negative_prompt_embeds=empty),),
    "NAG+EMAG": lambda negative, empty: (*ARMS["NAG"](negative, empty), EMAG(**EARLY)),
    "CFG+EMAG": lambda negative, empty: (*ARMS["CFG"](negative, empty), EMAG(**EARLY)),
    "NAG+CFG": lambda negative, empty: (*ARMS["NAG"](negative, empty), *ARMS["CFG"](negative, empty)),
    "EMAG+STG+PAG": lambda negative, empty: (
        EMAG(**EARLY),
        STG(mode="attention", scale=2, layers=(1,)),
        PAG(scale=2, layers=(0,)),
    ),
    "PAG spatial": lambda negative, empty: (PAG(scale=2, layers=(0, 1), extent="spatial"),),
}
DETAILS: dict[str, Arm] = {
    "NAG frame": lambda negative, empty: (NAG(negative_prompt_embeds=negative, scale=5, tau=1.2, norm="frame"),),
    "NAG clip": lambda negative, empty: (NAG(negative_prompt_embeds=negative, scale=5, tau=1.2, norm="clip"),),
    "NAG window": lambda negative, empty: (NAG(negative_prompt_embeds=negative, start=0.25, stop=0.75, layers=(1,)),),
    "VSF window": lambda negative, empty: (
        VSF(negative_prompt_embeds=negative, scale=1.2, offset=0.2, start=0.5, layers=(0,)),
    ),
    "EMAG map": lambda negative, empty: (EMAG(variant="map", **EARLY),),
    "EMAG map-video": lambda negative, empty: (EMAG(variant="map-video", **EARLY),),
    "EMAG previous": lambda negative, empty: (EMAG(select="previous", **EARLY),),
    "EMAG select": lambda negative, empty: (EMAG(select=(0, 1), strength=0.5, **EARLY),),
    "EMAG auto": lambda negative, empty: (EMAG(decay="auto", scale=3, start=0.5, average_from=0.25),),
    "EMAG spatial": lambda negative, empty: (EMAG(extent="spatial", **EARLY),),
    "EMAG temporal": lambda negative, empty: (EMAG(extent="temporal", **EARLY),),
    "PAG window": lambda negative, empty: (PAG(layers=(0, 1), start=0.25, stop=0.75),),
    "STG residual": lambda negative, empty: (STG(mode="residual", layers=(0, 1)),),
    "STG temporal": lambda negative, empty: (STG(mode="attention", scale=2, extent="temporal", layers=(0, 1)),),
    "SEG mean": lambda negative, empty: (SEG(sigma=None),),
    "SEG frames": lambda negative, empty: (SEG(sigma=2.0, over_frames=True, layers=(0, 1)),),
    "CADS": lambda negative, empty: (CADS(full=0.3, none=0.9, seed=3),),
    "CFG window": lambda negative, empty: (CFG(scale=3, negative_prompt_embeds=empty, start=0.25, stop=0.75),),
    "APG": lambda negative, empty: (APG(negative_prompt_embeds=empty, eta=0.5, rescale=2.0, momentum=-0.5),),
    "CFGZeroStar": lambda negative, empty: (CFGZeroStar(negative_prompt_embeds=empty),),
    "VSF+CFG+CADS": lambda negative, empty: (
        *ARMS["VSF"](negative, empty),
        *ARMS["CFG"](negative, empty),
        CADS(full=0.3, none=0.9),
    ),
    "NAG+APG+SEG+PAG": lambda negative, empty: (
        *ARMS["NAG"](negative, empty),
        APG(negative_prompt_embeds=empty),
        SEG(layers=(1,)),
        PAG(layers=(0,)),
    ),
}
FAMILIES = {
    "Wan": "WanPipeline",  # its own classifier-free guidance in two calls
    "Wan, two transformers": "WanPipeline",
    "Wan, small frames": "WanPipeline",
    "CogVideoX": "CogVideoXPipeline",  # in one batch
    "HunyuanVideo": "HunyuanVideoPipeline",  # in two calls, joint attention
    "HunyuanVideo, small frames": "HunyuanVideoPipeline",
    "Mochi": "MochiPipeline",  # in one batch
    "LTX": "LTXPipeline",  # in one batch
    "LTX-2": "LTX2Pipeline",  # in one batch, with audio
    "Latte": "LattePipeline",  # in one batch, attention over space and over time in turn
    "Kandinsky 5": "Kandinsky5T2VPipeline",  # in two calls
    "Kandinsky 6": "Kandinsky6TI2VAPipeline",  # in two calls, with audio
}
# A frame has 4 tokens and a pixel 4 frames, so that random models have heads of both extents.
SMALL_FRAMES = {
    "Wan, small frames": dict(height=32, width=32, num_frames=13),
    "HunyuanVideo, small frames": dict(height=16, width=16, num_frames=13),
}
EXTENTS = ("EMAG", "PAG spatial", "EMAG spatial", "EMAG temporal", "STG temporal")
ALL_ARMS = {**ARMS, **DETAILS}
DETAILED = ("Wan", "HunyuanVideo", "Latte")
WITH_CFG = ("nothing", "NAG", "VSF", "NAG+EMAG", "EMAG+STG+PAG", "PAG spatial")
WITHOUT_CFG = ("NAG", "CFG", "NAG+CFG", "CFG+EMAG", "SEG", "EMAG spatial")
SPECS = {  # guidance specs of the command line
    "tiny": ("none", "cfg:4", "nag:alpha=0.5", "nag+emag:decay=0.5", "vsf+cfg:3", "seg:sigma=none+pag:extent=spatial"),
    "tiny-4step": (
        "none",
        "nag:norm=clip",
        "vsf",
        "emag:extent=temporal+stg:mode=residual,layers=2",
        "cads+nag:layers=1-3",
    ),
}


def trace_values(run: Any) -> list[Any]:
    """Return the records and choices of all traces of a run, without times."""
    return [
        [
            [trace.steps],
            [[record.step, record.layer, record.stream, record.clamped, record.change] for record in trace],
            [
                [choice.step, choice.guidance, list(choice.layers), sorted(choice.gradients.items())]
                for choice in trace.choices
            ],
        ]
        for trace in run.traces
    ]


def make_pipeline(name: str, pipeline_cfg: bool) -> tuple[Any, Any]:
    """Return the tests' case of a family and its pipeline."""
    case = next(case for case in CASES if case.pipeline == FAMILIES[name])
    pipe = case.pipe(pipeline_cfg)
    if name == "Wan, two transformers":
        second = case.model.make()
        for parameter in second.parameters():
            parameter.mul_(0.9)
        pipe = WanPipeline(**{**pipe.components, "transformer_2": second, "boundary_ratio": 0.5})
        pipe.set_progress_bar_config(disable=True)
    return case, pipe


def record_pipeline(name: str, pipeline_cfg: bool, arm: Arm) -> Recording:
    """Sample latents with a random pipeline, with the pipeline's CFG on or off."""
    case, pipe = make_pipeline(name, pipeline_cfg)
    settings = {**case.call, **({} if pipeline_cfg else case.off), **SMALL_FRAMES.get(name, {})}
    settings |= case.text(case.text_inputs(2)) | case.text(case.text_inputs(6), "negative_")
    generator = torch.Generator().manual_seed(0)
    with guide(pipe, *arm(case.text_inputs(5), case.text_inputs(6))) as run:
        output = pipe(**settings, num_inference_steps=STEPS, generator=generator, output_type="latent")
    return list(output.values()), trace_values(run)


def record_transformer(name: str, dtype: torch.dtype, arm: Arm) -> Recording:
    """Predict with a bare transformer, a batch of two with masked texts, and a negative of another length."""
    tiny, scheduler, predictions = BY_NAME[name], FlowMatchEulerDiscreteScheduler(), []
    model = tiny.make() if dtype == torch.float32 else tiny.make().to(dtype)
    text = cast_tensors(tiny.negative(), dtype)
    with guide(model, *arm(text, text), scheduler=scheduler) as run:
        scheduler.set_timesteps(STEPS)
        for step, timestep in enumerate(scheduler.timesteps):
            inputs = cast_tensors(tiny.inputs(2), dtype)
            inputs["hidden_states"] = inputs["hidden_states"] * (1 - 0.2 * step)
            predictions.append(model(**inputs))
            latents = torch.zeros(1)
            scheduler.step(latents, timestep, latents)
    return predictions, trace_values(run)


def cast_tensors(values: Values, dtype: torch.dtype) -> Values:
    """Return arguments with the floating-point tensors in another dtype."""

    def convert(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return {name: convert(value) for name, value in values.items()}


def record_shipped(model: str, batch: int, scale: float, guidances: Guidances) -> Recording:
    """Sample latents with a shipped model by its diffusers pipeline, from one text prompt or a batch."""
    pipe = WanPipeline.from_pretrained(ROOT / "pipelines" / "weights" / model)
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(seed) for seed in range(batch)]
    settings = dict(height=64, width=64, num_frames=13, num_inference_steps=STEPS, guidance_scale=scale)
    with guide(pipe, *guidances) as run:
        output = pipe([PROMPT] * batch, generator=generator, output_type="latent", **settings)
    return list(output.values()), trace_values(run)


def record_generate(model: str, **arguments: Any) -> Recording:
    """Generate a clip by `vidguide.generate`."""
    settings: Values = dict(model=model, device="cpu", progress=False, steps=STEPS, seed=4)
    clip = generate(PROMPT, **settings | arguments)
    return [clip.frames], remove_times(clip.provenance)


def record_command(*arguments: str) -> Recording:
    """Run `vidguide ARGUMENTS --json` and return the JSON as output."""
    with tempfile.TemporaryDirectory() as folder:
        return remove_times(run_command(Path(folder), *arguments)), []


def record_comparison() -> Recording:
    """Run `vidguide compare` and return the metrics of its clips as output."""
    command = ("compare", "a large circle", "-n", "red", "-g", "none", "-g", "nag:alpha=0.5", "--steps", "4")
    with tempfile.TemporaryDirectory() as folder:
        run_command(Path(folder), *command, "--device", "cpu", "-o", "FOLDER")
        rows = [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().splitlines()]
    return [
        [row[name] for name in ("arm", "clip_sha256", "metric", "status", "value", "per_frame")] for row in rows
    ], []


def run_command(folder: Path, *arguments: str) -> Any:
    """Run `vidguide ARGUMENTS --json` in this process, with FOLDER replaced by the folder, and return the JSON.

    Raises:
        RuntimeError: the command failed, or pyproject.toml does not declare it.
    """
    entry = re.search(r'^vidguide = "(.+):(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    if entry is None:
        raise RuntimeError("pyproject.toml: has no command vidguide")
    app = getattr(importlib.import_module(entry[1]), entry[2])
    command = [argument.replace("FOLDER", str(folder)) for argument in (*arguments, "--json")]
    result = CliRunner().invoke(app, command)
    if result.exit_code:
        raise RuntimeError(f"vidguide {' '.join(command)}: {result.output}")
    return json.loads(result.stdout)


def remove_times(values: Any) -> Any:
    """Return JSON values without times, versions and paths of temporary files."""
    if isinstance(values, dict):
        rest = {name: remove_times(value) for name, value in values.items() if "seconds" not in name}
        return {name: value for name, value in rest.items() if name not in ("versions", "files")}
    return [remove_times(value) for value in values] if isinstance(values, list) else values


def pipeline_cases() -> Iterator[tuple[str, Callable[[], Recording]]]:
    """Yield the random pipelines: every guidance in three of them, the main ones and their combinations in all."""
    for family, pipeline in FAMILIES.items():
        if hasattr(diffusers, pipeline):
            for pipeline_cfg, arm in family_arms(family):
                mode = "CFG of the pipeline" if pipeline_cfg else "no CFG"
                yield f"{family}/{mode}/{arm}", partial(record_pipeline, family, pipeline_cfg, ALL_ARMS[arm])


def family_arms(family: str) -> Iterator[tuple[bool, str]]:
    """Yield the arms of a family: whether the pipeline's CFG is on, and the name of vidguide's guidances."""
    without: tuple[str, ...]
    within: tuple[str, ...]
    if family in SMALL_FRAMES:
        without, within = EXTENTS, EXTENTS[:1]
    else:
        without, within = (tuple(ALL_ARMS) if family in DETAILED else WITHOUT_CFG), WITH_CFG
    yield from ((True, arm) for arm in within)
    yield from ((False, arm) for arm in without)


def transformer_cases() -> Iterator[tuple[str, Callable[[], Recording]]]:
    """Yield every transformer with an adapter; some in bfloat16."""
    for name in BY_NAME:
        for arm in ("VSF", "NAG+EMAG"):
            yield f"{name}/{arm}", partial(record_transformer, name, torch.float32, ARMS[arm])
    for name in ("WanTransformer3DModel", "HunyuanVideoTransformer3DModel", "CogVideoXTransformer3DModel"):
        for arm in ("NAG+EMAG", "VSF", "SEG", "EMAG+STG+PAG"):
            yield f"{name}/bfloat16/{arm}", partial(record_transformer, name, torch.bfloat16, ARMS[arm])


def shipped_cases() -> Iterator[tuple[str, Callable[[], Recording]]]:
    """Yield the shipped models: by guide(), by generate() and by the command line."""
    for model, specs in SPECS.items():
        nag = NAG(negative_prompt=["red", "moving left"])
        yield f"{model}/guide/NAG, batch of 2", partial(record_shipped, model, 2, 1.0, (nag,))
        both = (NAG(negative_prompt="red"), EMAG(**EARLY))
        yield f"{model}/guide/NAG+EMAG in CFG", partial(record_shipped, model, 1, 4.0, both)
        yield f"{model}/generate/nothing", partial(record_generate, model)
        yield f"{model}/generate/own NAG", partial(record_generate, model, negative_prompt="red")
        for spec in specs:
            command: tuple[str, ...] = ("generate", PROMPT, "-m", model, "-n", "red", "-g", spec, "--steps", str(STEPS))
            command += ("--device", "cpu", "-o", "FOLDER/clip.mkv")
            yield f"{model}/vidguide generate/{spec}", partial(record_command, *command)
    small = ("--steps", "2", "--frames", "5", "--size", "32x32")
    yield "tiny/vidguide locate", partial(record_command, "locate", "tiny", "--profile", *small)
    yield "tiny/vidguide compare", record_comparison


def cases() -> dict[str, Callable[[], Recording]]:
    """Return all cases by name."""
    return {**dict(pipeline_cases()), **dict(transformer_cases()), **dict(shipped_cases())}


def digest(value: Any) -> str:
    """Return the SHA-256 of arrays by dtype, shape and bytes, in nested lists, and of other values as JSON."""
    hasher = hashlib.sha256()
    for part in flatten(value):
        if isinstance(part, torch.Tensor):
            hasher.update(f"{part.dtype}{tuple(part.shape)}".encode())
            hasher.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, np.ndarray):
            hasher.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        else:
            hasher.update(json.dumps(part, sort_keys=True).encode())
    return hasher.hexdigest()


def flatten(value: Any) -> Iterator[Any]:
    """Yield the leaves of nested lists and tuples."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from flatten(part)
    else:
        yield value


@torch.no_grad()
def record(pattern: str) -> dict[str, Values]:
    """Run the cases whose names match a pattern."""
    recorded = {}
    for name, run in cases().items():
        if fnmatch.fnmatch(name, pattern):
            begin = time.perf_counter()
            torch.manual_seed(0)
            recorded[name] = hash_case(run)
            print(f"{time.perf_counter() - begin:6.2f} s  {recorded[name]['outputs'][:12]}  {name}", flush=True)
    return recorded


def hash_case(run: Callable[[], Recording]) -> Values:
    """Return hashes of the outputs and the trace of a case, or the type of the exception that refuses it."""
    try:
        outputs, trace = run()
    except (ValueError, LookupError, TypeError) as error:
        print(f"          {error}")
        return {"outputs": type(error).__name__, "trace": ""}
    return {"outputs": digest(outputs), "trace": digest(trace)}


def differences(first: dict[str, Values], second: dict[str, Values]) -> list[str]:
    """Return a line for each case that differs between two recordings."""
    lines = [f"only in one recording: {name}" for name in sorted(first.keys() ^ second.keys())]
    for name in sorted(first.keys() & second.keys()):
        parts = [part for part in first[name] if first[name][part] != second[name][part]]
        lines += [f"differs: {name}: {', '.join(parts)}"] if parts else []
    return lines


def silence() -> None:
    """Disable warnings and progress bars of libraries."""
    warnings.simplefilter("ignore")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def main() -> None:
    """Record, or compare two recordings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of cases, with * and ?")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"))
    arguments = parser.parse_args()
    if arguments.compare:
        first, second = (json.loads(path.read_text())["cases"] for path in arguments.compare)
        lines = differences(first, second)
        print("\n".join([*lines, f"{len(first.keys() | second.keys()) - len(lines)} cases agree, {len(lines)} do not"]))
        sys.exit(bool(lines))
    if arguments.output is None:
        parser.error("give OUTPUT or --compare")
    torch.set_num_threads(1)
    silence()
    print(f"vidguide of {ROOT}")
    recorded = record(arguments.only)
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    arguments.output.write_text(json.dumps({"root": str(ROOT), **versions, "cases": recorded}, indent=1) + "\n")


if __name__ == "__main__":
    main()
