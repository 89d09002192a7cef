"""Run the presets on their real weights on your GPU, and write one file to send back.

    python benchmarks/presets.py [--only NAME ...] [--output FOLDER] [--device cuda] [--memory GIB] [--offload HOW]
    python benchmarks/presets.py --only tiny tiny-4step --device cpu      # the shipped models, to test the script

Each preset that fits, as `vidguide plan` estimates, makes a clip without guidance and one with its NAG, with the same
noise. Recorded are versions, commits of the repositories, seconds, peak memory, what NAG changed, and faults: NaN,
frames of one colour, clips that stand still, and clips that NAG leaves as they are. A failure is recorded, and the
other presets go on. Presets named by `--only` are run whether or not they fit.

A further run goes on where the last one ended: presets with a record are left out, unless `--again` is given. One whose
process ended, for want of memory for example, is recorded as such. FOLDER.zip holds the records and a picture of each
preset; the clips stay in FOLDER. Weights are downloaded to the cache of Hugging Face, tens of GB a preset.
"""

import argparse
import dataclasses
import gc
import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from PIL import Image
from reporting import machine, table

from vidguide import Clip, Setup, generate
from vidguide.clip import replace_whole
from vidguide.pipelines.loading.hub import is_repo_id
from vidguide.pipelines.loading.load import choose_device, load
from vidguide.pipelines.models.presets import MODELS, PRESETS
from vidguide.pipelines.models.spec import SHIPPED, Model
from vidguide.pipelines.planning.cards import CARDS, Card
from vidguide.pipelines.planning.plan import plan
from vidguide.pipelines.request.setup import OFFLOADS

PROMPT, NEGATIVE = "a red panda surfing a wave at sunset, its fur wet", "blurry, distorted, low quality, watermark"
OF_SHIPPED = ("a large red circle moving right", "blue")
OF_IMAGE = "the ball rolls over the grass to the right"
IMAGE_SIZE = (832, 480)  # of the first image where the model states no size
GIB = 1 << 30
SHEET_WIDTH = 1792  # pixels
FLAT = 1.0  # levels of standard deviation below which a frame has one colour
STILL = 0.5  # mean absolute difference in levels below which two frames are the same, as in eval/metrics/guards.py
RUNNING, DONE, FAILED, SKIPPED = "running", "done", "failed", "skipped"
Record = dict[str, Any]


class DoesNotFitError(ValueError):
    """A preset needs more memory than there is, or its memory is not known."""


def faults_of(clip: Clip) -> list[str]:
    """Return what is wrong with a clip, as text: frames of one colour, or that do not change."""
    frames = clip.frames.astype(np.float32)
    flat = [index for index, frame in enumerate(frames) if frame.std(axis=(0, 1)).max() < FLAT]
    faults = [f"frames of one colour: {len(flat)} of {len(frames)}, first {flat[0]}"] if flat else []
    if len(frames) > 1 and np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).max() < STILL:
        faults.append("no frame differs from the first")
    return faults


def first_image(width: int, height: int) -> Image.Image:
    """Return a drawn first image: a red ball on grass under a sky."""
    row, column = np.mgrid[:height, :width]
    sky, grass = np.array([120, 170, 235]), np.array([60, 140, 50])
    shade = 0.8 + 0.2 * np.cos(row / 7 + 3 * np.sin(column / 40))
    image = np.where(row[..., None] < 0.6 * height, sky, grass) * shade[..., None]
    distance = np.hypot(row - 0.62 * height, column - 0.3 * width) / (0.16 * height)
    light = 1 - 0.6 * np.clip(distance, 0, 1)
    ball = distance[..., None] < 1
    return Image.fromarray(np.where(ball, np.array([230, 40, 40]) * light[..., None], image).astype(np.uint8))


def texts_of(name: str, model: Model) -> dict[str, Any]:
    """Return prompt and negative prompt of a preset, and its first image if it needs one."""
    if name in SHIPPED:
        return dict(zip(("prompt", "negative_prompt"), OF_SHIPPED, strict=True))
    if model.image != "must":
        return {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    size = (model.width or IMAGE_SIZE[0], model.height or IMAGE_SIZE[1])
    return {"prompt": OF_IMAGE, "negative_prompt": NEGATIVE, "image": first_image(*size)}


class Memory:
    """Peak memory in GiB since the last `reset`: of the GPU, or on a CPU of the process since it started."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        """Start anew, without what is no longer used."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> dict[str, float]:
        """Return the peak of allocated and of reserved memory; on a CPU of the resident memory."""
        if self.device.type == "cuda":
            peaks = {
                "allocated": torch.cuda.max_memory_allocated(self.device),
                "reserved": torch.cuda.max_memory_reserved(self.device),
            }
            return {name: round(value / GIB, 3) for name, value in peaks.items()}
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return {"resident": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB, 3)}


def commits_of(model: Model) -> dict[str, str]:
    """Return the commit of each repository of a preset in the cache of Hugging Face; empty for local folders."""
    parts: list[Any] = [model, *([model.checkpoint] if model.checkpoint else []), *model.loras]
    commits = {}
    for source, revision in {(part.source, part.revision) for part in parts if is_repo_id(part.source)}:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model")
        reference = folder / "refs" / (revision or "main")
        if reference.is_file():
            commits[source] = reference.read_text().strip()
        elif revision is not None and (folder / "snapshots" / revision).is_dir():
            commits[source] = revision
    return commits


def card_of(device: torch.device, memory: float | None) -> Card:
    """Return the device as a card of which only the memory is known; `memory` in GiB replaces the device's."""
    if memory is None and device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / GIB
    if memory is None:
        import psutil

        memory = psutil.virtual_memory().total / GIB
    return dataclasses.replace(CARDS["h100"], memory=memory, source="")


def setup_for(name: str, card: Card, offload: str | None, forced: bool) -> tuple[Setup, Record]:
    """Return the setup of a preset, and its plan for the record.

    Args:
        name: of the preset.
        card: device.
        offload: chosen by the user; None for the first setup that fits.
        forced: whether the preset is run even if it does not fit.

    Raises:
        DoesNotFitError: it does not fit, or cannot be planned.
    """
    asked = Setup(offload=offload or "auto")
    try:
        planned = plan(name, setup=asked, card=card)
    except (ValueError, OSError) as error:
        if forced:
            return asked, {"plan": f"none: {error}"}
        raise DoesNotFitError(f"{error}; name it by --only to run it") from error
    record = {"plan": {phase.name: round(phase.peak / GIB, 3) for phase in planned.phases}}
    if planned.fits or (forced and planned.advice is None):
        return asked, record
    if offload is None and planned.advice is not None:
        return Setup(**planned.advice), record
    raise DoesNotFitError(f"needs {planned.peak / GIB:.1f} GiB with offload={planned.setup.offload!r}")


def run_preset(name: str, options: argparse.Namespace, folder: Path) -> Record:
    """Make and examine the two clips of a preset; return the record.

    Raises:
        Exception: whatever loading or sampling raises.
    """
    device, model, memory = choose_device(options.device), MODELS[name], Memory(choose_device(options.device))
    setup, record = setup_for(name, card_of(device, options.memory), options.offload, bool(options.only))
    texts = texts_of(name, model)
    memory.reset()
    started = time.perf_counter()
    pipe = load(name, device=options.device, setup=setup, image="image" in texts)
    record |= {"setup": setup.values(), "commits": commits_of(model)}
    record |= {"seconds to load": round(time.perf_counter() - started, 1), "memory to load": memory.peak()}
    clips: dict[str, Clip] = {}
    for arm, changes in {"none": {"guidance": ()}, "nag": {}}.items():
        memory.reset()
        clips[arm] = generate(**{**texts, **changes}, model=name, pipe=pipe, seed=options.seed)
        clips[arm].save(folder / f"{arm}.mp4")
        record[arm] = {**clips[arm].describe(), "memory": memory.peak(), "faults": faults_of(clips[arm])}
    save_sheet(list(clips.values()), folder / "sheet.png")
    changed = float(np.abs(np.diff([clip.frames.astype(np.float32) for clip in clips.values()], axis=0)).mean())
    record["changed by NAG"] = round(changed, 3)
    faults = [f"{arm}: {fault}" for arm in clips for fault in record[arm]["faults"]]
    return {**record, "status": DONE, "faults": [*faults, *(["NAG changed nothing"] if changed == 0 else [])]}


def save_sheet(clips: Sequence[Clip], path: Path) -> None:
    """Write the contact sheets of clips as one picture, a row for each."""
    sheet = Image.fromarray(np.concatenate([clip.contact_sheet() for clip in clips]))
    factor = min(SHEET_WIDTH / sheet.width, 1)
    smaller = sheet.resize((round(sheet.width * factor), round(sheet.height * factor)), Image.Resampling.LANCZOS)
    replace_whole(path, lambda temporary: smaller.save(temporary))


def write_record(path: Path, record: Record) -> None:
    """Write a record whole."""
    text = json.dumps(record, indent=1, default=str) + "\n"
    replace_whole(path, lambda temporary: temporary.write_text(text))


def without_paths(text: str) -> str:
    """Return a text with names in place of the cache, the current and the home folder, which may have user names."""
    folders = {"CACHE": Path(constants.HF_HUB_CACHE), ".": Path.cwd(), "~": Path.home()}
    for name, folder in sorted(folders.items(), key=lambda item: -len(str(item[1]))):
        if folder != Path(folder.anchor):
            text = text.replace(str(folder), name)
    return text


def is_open(path: Path, again: bool) -> bool:
    """Return whether a preset is still to be run; one whose process ended during its run is recorded as failed."""
    if again or not path.is_file():
        return True
    record: Record = json.loads(path.read_text())
    if record["status"] == RUNNING:
        write_record(path, {**record, "status": FAILED, "error": "its process ended; run it with --again to repeat it"})
    return record["status"] == SKIPPED


def attempt(name: str, options: argparse.Namespace, run: Callable[..., Record] = run_preset) -> None:
    """Run a preset unless it has a record, and write its record, also if it fails or does not fit."""
    folder = options.output / name
    path = folder / "record.json"
    if not is_open(path, options.again):
        return
    folder.mkdir(parents=True, exist_ok=True)
    record: Record = {"preset": name, "machine": machine(), "cuda": torch.version.cuda}
    write_record(path, {**record, "status": RUNNING})
    try:
        record |= run(name, options, folder)
    except DoesNotFitError as error:
        record |= {"status": SKIPPED, "error": without_paths(str(error))}
    except Exception as error:  # of any library, which the next preset need not have
        record |= {"status": FAILED, "error": without_paths(f"{type(error).__name__}: {error}")}
    except KeyboardInterrupt:
        path.unlink()
        raise
    write_record(path, record)
    print(f"{name}: {record['status']} {record.get('error', '')}{'; '.join(record.get('faults', ()))}", flush=True)


def row(record: Record) -> dict[str, str]:
    """Return the table row of a record."""
    cells = {"preset": record["preset"], "result": record["status"]}
    arms = [record[arm] for arm in ("none", "nag") if arm in record]
    cells["seconds, without and with NAG"] = ", ".join(f"{arm['seconds']:.1f}" for arm in arms)
    cells["peak memory, GiB"] = ", ".join(f"{max(arm['memory'].values()):.1f}" for arm in arms)
    cells["changed by NAG, levels"] = str(record.get("changed by NAG", ""))
    listed = record.get("faults") or [record.get("error", "none")]
    return {**cells, "faults": "; ".join(listed).replace("\n", " ").replace("|", "/")[:200]}


def pack(output: Path) -> Path:
    """Write the records, their table and the pictures of a folder as one file; return its path."""
    paths = sorted(output.glob("*/record.json"))
    text = table([row(json.loads(path.read_text())) for path in paths])
    folder = output.resolve()  # "." has no name
    target = folder.with_name(f"{folder.name}.zip")

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("presets.md", text)
            for path in (*paths, *sorted(output.glob("*/sheet.png"))):
                archive.write(path, path.relative_to(output))

    replace_whole(target, write)
    print(f"{text}\nSend back {target}")
    return target


def main() -> None:
    """Run the presets, and pack the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], choices=list(MODELS), metavar="NAME", help="presets to run")
    parser.add_argument("--output", type=Path, default=Path("presets-run"), help="folder of the clips")
    parser.add_argument("--device", help="cuda, cuda:1 or cpu; the fastest by default")
    parser.add_argument("--memory", type=float, help="GiB that may be used; all of the device's by default")
    parser.add_argument("--offload", choices=OFFLOADS, help="offloading; by default what fits")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--again", action="store_true", help="run presets again that have a record")
    options = parser.parse_args()
    for name in options.only or PRESETS:
        attempt(name, options)
    pack(options.output)


if __name__ == "__main__":
    main()
