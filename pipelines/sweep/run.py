"""sweep(): every prompt and seed in every arm, resumable, divisible among machines, and scored in the end."""

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
from vidguide.pipelines.request.guidance_spec import parse_or_own
from vidguide.pipelines.sweep.config import Arm, Prompt, Sweep

CLIPS = "clips"
REQUEST = "sweep"  # under which a clip's JSON holds what it was asked to be


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip of a sweep, and the lossless file it is written to."""

    prompt: Prompt
    seed: int
    arm: Arm
    path: Path
    request: dict[str, Any]

    def done(self) -> bool:
        """Whether the clip is there; its JSON is written last.

        Raises:
            ValueError: there is a clip in its place that was asked for otherwise.
        """
        told = self.path.with_suffix(".json")
        if not (self.path.is_file() and told.is_file()):
            return False
        before = json.loads(told.read_text(encoding="utf-8")).get(REQUEST, {})
        changed = [name for name in self.request if before.get(name) != self.request[name]]
        if changed:
            then, now = ({name: one.get(name) for name in changed} for one in (before, self.request))
            raise ValueError(f"output: {self.path} was made with {then}, and is now to be {now}; give another folder")
        return True


def jobs(sweep: Sweep, folder: Path) -> list[Job]:
    """Every clip of a sweep: the arms of one prompt and seed one after another, so that each is soon a whole pair.

    Raises:
        ValueError: two arms or prompts would have the same folder or file.
    """
    folders = places([arm.name for arm in sweep.arms], "arms")
    names = places([f"{number:04d} {one.id}" for number, one in enumerate(sweep.prompts)], "prompts")
    return [
        Job(
            prompt=prompt,
            seed=seed,
            arm=arm,
            path=folder / CLIPS / place / f"{name}-{seed}.mkv",
            request=request(sweep, prompt, seed, arm),
        )
        for prompt, name in zip(sweep.prompts, names, strict=True)
        for seed in sweep.seeds
        for arm, place in zip(sweep.arms, folders, strict=True)
    ]


def places(names: list[str], what: str) -> list[str]:
    """Names as files may be called."""
    found = [re.sub(r"[^A-Za-z0-9._=]+", "-", name)[:60].strip("-.") for name in names]
    for name, place in zip(names, found, strict=True):
        if not place or found.count(place) > 1:
            raise ValueError(f"{what}: {name!r} would be written to {place!r}, as another is; give it a plain name")
    return found


def request(sweep: Sweep, prompt: Prompt, seed: int, arm: Arm) -> dict[str, Any]:
    """All that was asked of a clip, as its JSON holds it."""
    placing = {name: value for name, value in sweep.placing.items() if name != "device"}
    asked = {"model": sweep.model, **placing, "seed": seed, "arm": arm.name, "guidance": arm.guidance}
    return {**asked, **dataclasses.asdict(prompt), "settings": {**sweep.settings, **arm.settings}}


def part_of(listed: list[Job], part: str | None) -> list[Job]:
    """The jobs of one machine of several; all arms of a prompt and seed are on the same one.

    Raises:
        ValueError: the part is not as 2/4.
    """
    if part is None:
        return listed
    number, slash, of = part.partition("/")
    if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise ValueError(f"part={part!r}: must be as 2/4, the second part of four")
    pairs = list(dict.fromkeys((job.prompt.id, job.seed) for job in listed))
    own = set(pairs[int(number) - 1 :: int(of)])
    return [job for job in listed if (job.prompt.id, job.seed) in own]


def run(
    sweep: Sweep,
    folder: str | Path,
    *,
    part: str | None = None,
    tell: Callable[[str, int], None] = lambda clip, total: None,
) -> list[Path]:
    """Make the clips of a sweep that are not there yet: `FOLDER/clips/ARM/NUMBER-PROMPT-SEED.mkv`, and its JSON.

    Args:
        sweep: as :func:`vidguide.pipelines.sweep.config.read_sweep` reads it.
        folder: that an earlier run of the same sweep may have begun.
        part: "2/4" for the second of four parts of the prompts and seeds, one for each machine.
        tell: called when a clip is made, with its path and the number of clips to make.

    Returns:
        The clips of this part, those that were there too.

    Raises:
        ValueError, TypeError, OSError, ImportError: before any step, naming the argument, its value and what would be
            right; also where the folder has clips that were asked for otherwise.
    """
    resolve(sweep.model)
    listed = part_of(jobs(sweep, Path(folder)), part)
    missing = [job for job in listed if not job.done()]
    pipe = None
    for job in missing:
        if pipe is None:
            pipe = load(sweep.model, image=job.prompt.image is not None, progress=False, **sweep.placing)
        make(sweep, job, pipe)
        tell(str(job.path), len(missing))
    return [job.path for job in listed]


def make(sweep: Sweep, job: Job, pipe: Any) -> None:
    """Generate one clip and write it, the JSON last."""
    prompt = job.prompt
    clip = generate(
        prompt.prompt,
        model=sweep.model,
        image=prompt.image,
        negative_prompt=prompt.negative_prompt,
        guidance=parse_or_own(job.arm.guidance, prompt.negative_prompt),
        seed=job.seed,
        pipe=pipe,
        progress=False,
        **job.request["settings"],
    )
    texts = {"prompt_id": prompt.id, "eval_prompt": prompt.eval_prompt}
    told = {**clip.provenance, **texts, REQUEST: job.request}
    job.path.parent.mkdir(parents=True, exist_ok=True)
    dataclasses.replace(clip, provenance=told).save(job.path)


def evaluate(sweep: Sweep, folder: str | Path, tell: Callable[[str], None] = lambda clip: None) -> Summary:
    """Score the clips of a sweep in the evaluation room, hold each arm against the first, and write the report.

    Args:
        sweep, folder: as for :func:`run`, which has made every clip.
        tell: called before each clip with its path.
    """
    target = Path(folder)
    listed = [
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
    summary = assess(listed, [arm.name for arm in sweep.arms], target, tell)
    write(summary, target)
    return summary
