"""sweep(): every prompt and seed in every variant; resumable, divisible among machines, scored at the end."""

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidguide.eval.clips.entries import Entry
from vidguide.eval.evaluate import assess, write
from vidguide.eval.scoring.summary import Summary
from vidguide.pipelines.generate import generate
from vidguide.pipelines.loading.load import load, resolve
from vidguide.pipelines.request.guidance_spec import parse_unless_default
from vidguide.pipelines.sweep.config import Arm, Prompt, Sweep

CLIPS = "clips"
REQUEST = "sweep"  # field of a clip's JSON that holds what the sweep requested
UNSAFE = re.compile(r"[^A-Za-z0-9._=]+")  # characters that are replaced in file names


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip of a sweep.

    Attributes:
        prompt, seed, arm: what to generate.
        path: lossless file to write.
        request: everything that determines the clip, as its JSON records it.
    """

    prompt: Prompt
    seed: int
    arm: Arm
    path: Path
    request: dict[str, Any]

    def done(self) -> bool:
        """Return whether the clip exists, with its JSON, which is written last.

        Raises:
            ValueError: the existing clip was generated for another request.
        """
        provenance = self.path.with_suffix(".json")
        if not (self.path.is_file() and provenance.is_file()):
            return False
        recorded = json.loads(provenance.read_text(encoding="utf-8")).get(REQUEST, {})
        changed = [name for name in self.request if recorded.get(name) != self.request[name]]
        if changed:
            before, now = ({name: request.get(name) for name in changed} for request in (recorded, self.request))
            raise ValueError(f"output: {self.path} was generated with {before}, not {now}; choose another folder")
        return True


def jobs(sweep: Sweep, folder: Path) -> list[Job]:
    """Return every clip of a sweep. The arms of a prompt and seed follow each other, so that pairs complete early.

    Raises:
        ValueError: two arms or prompts would have the same folder or file name.
    """
    arm_names = file_names([arm.name for arm in sweep.arms], "arms")
    prompt_names = file_names([f"{number:04d} {prompt.id}" for number, prompt in enumerate(sweep.prompts)], "prompts")
    return [
        Job(
            prompt=prompt,
            seed=seed,
            arm=arm,
            path=folder / CLIPS / arm_name / f"{prompt_name}-{seed}.mkv",
            request=make_request(sweep, prompt, seed, arm),
        )
        for prompt, prompt_name in zip(sweep.prompts, prompt_names, strict=True)
        for seed in sweep.seeds
        for arm, arm_name in zip(sweep.arms, arm_names, strict=True)
    ]


def file_names(names: list[str], field: str) -> list[str]:
    """Convert names to file names.

    Args:
        names: names of arms or prompts.
        field: field of the sweep that holds them, for messages.

    Raises:
        ValueError: two names would have the same file name, or one has none.
    """
    converted = [UNSAFE.sub("-", name)[:60].strip("-.") for name in names]
    for name, file_name in zip(names, converted, strict=True):
        if not file_name or converted.count(file_name) > 1:
            raise ValueError(f"{field}: the file name {file_name!r} of {name!r} must be unique; rename it")
    return converted


def make_request(sweep: Sweep, prompt: Prompt, seed: int, arm: Arm) -> dict[str, Any]:
    """Return everything that determines a clip, as its JSON records it; the device does not."""
    placement = {name: value for name, value in sweep.placement.items() if name != "device"}
    variant = {"model": sweep.model, **placement, "seed": seed, "arm": arm.name, "guidance": arm.guidance}
    return {**variant, **dataclasses.asdict(prompt), "settings": {**sweep.settings, **arm.settings}}


def part_of(all_jobs: list[Job], part: str | None) -> list[Job]:
    """Return the jobs of one machine of several; all arms of a prompt and seed are in the same part.

    Args:
        all_jobs: jobs of the sweep.
        part: "2/4" for the second of four parts; None for all jobs.

    Raises:
        ValueError: the part has another form.
    """
    if part is None:
        return all_jobs
    number, slash, count = part.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"part={part!r}: must have the form 2/4, for the second of four parts")
    pairs = list(dict.fromkeys((job.prompt.id, job.seed) for job in all_jobs))
    selected = set(pairs[int(number) - 1 :: int(count)])
    return [job for job in all_jobs if (job.prompt.id, job.seed) in selected]


def run(
    sweep: Sweep,
    folder: str | Path,
    *,
    part: str | None = None,
    on_clip: Callable[[str, int], None] = lambda path, total: None,
) -> list[Path]:
    """Generate the missing clips of a sweep, as `FOLDER/clips/ARM/NUMBER-PROMPT-SEED.mkv` with a JSON each.

    Args:
        sweep: as :func:`vidguide.pipelines.sweep.config.read_sweep` returns it.
        folder: output folder; an earlier run of the same sweep is continued.
        part: "2/4" for the second of four parts of the prompts and seeds, one per machine.
        on_clip: called after each clip with its path and the number of clips to generate.

    Returns:
        Paths of all clips of this part, including those that existed.

    Raises:
        ValueError, TypeError, OSError, ImportError: before any step, naming the argument, its value and what it must
            be; also if the folder has clips of another request.
    """
    resolve(sweep.model)
    selected = part_of(jobs(sweep, Path(folder)), part)
    missing = [job for job in selected if not job.done()]
    pipe = None
    for job in missing:
        if pipe is None:
            pipe = load(sweep.model, image=job.prompt.image is not None, progress=False, **sweep.placement)
        generate_clip(sweep, job, pipe)
        on_clip(str(job.path), len(missing))
    return [job.path for job in selected]


def generate_clip(sweep: Sweep, job: Job, pipe: Any) -> None:
    """Generate one clip and write it, its JSON last."""
    prompt = job.prompt
    clip = generate(
        prompt.prompt,
        model=sweep.model,
        image=prompt.image,
        negative_prompt=prompt.negative_prompt,
        guidance=parse_unless_default(job.arm.guidance, prompt.negative_prompt),
        seed=job.seed,
        pipe=pipe,
        progress=False,
        **job.request["settings"],
    )
    texts = {"prompt_id": prompt.id, "eval_prompt": prompt.eval_prompt}
    provenance = {**clip.provenance, **texts, REQUEST: job.request}
    job.path.parent.mkdir(parents=True, exist_ok=True)
    dataclasses.replace(clip, provenance=provenance).save(job.path)


def evaluate(sweep: Sweep, folder: str | Path, on_clip: Callable[[str], None] = lambda path: None) -> Summary:
    """Score the clips of a sweep, compare each arm with the first, and write the report.

    Args:
        sweep, folder: as for :func:`run`, which has generated every clip.
        on_clip: called with the path of each clip before it is scored.
    """
    target = Path(folder)
    entries = [
        Entry(
            clip=job.path,
            arm=job.arm.name,
            prompt_id=job.prompt.id,
            seed=job.seed,
            prompt=job.prompt.prompt,
            eval_prompt=job.prompt.eval_prompt,
            negative_prompt=job.prompt.negative_prompt,
        )
        for job in jobs(sweep, target)
    ]
    summary = assess(entries, [arm.name for arm in sweep.arms], target, on_clip)
    write(summary, target)
    return summary
