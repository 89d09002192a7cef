"""The clips of a sweep as jobs: their files, what was requested, and whether a clip on the disk is that clip."""

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidguide.clip import describe_file
from vidguide.eval.clips.errors import ReadError
from vidguide.eval.clips.read import read
from vidguide.eval.files import read_object
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.sweep.config import Arm, Prompt, Sweep
from vidguide.pipelines.sweep.storage import AnyPath

CLIPS = "clips"
REQUEST = "sweep"  # field of a clip's JSON that holds what the sweep requested
UNSAFE = re.compile(r"[^A-Za-z0-9._=]+")  # characters that are replaced in file names


class DamagedError(ValueError):
    """A clip on the disk that must be generated again; the message gives the reason."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One clip of a sweep; a job equals itself only.

    Attributes:
        prompt, seed, arm: what to generate.
        path: lossless file to write.
        request: everything that determines the clip, as its JSON records it.
    """

    prompt: Prompt
    seed: int
    arm: Arm
    path: AnyPath
    request: dict[str, Any]

    @property
    def json_path(self) -> AnyPath:
        """Path of the clip's JSON, which is written last."""
        return self.path.with_suffix(".json")

    @property
    def pair(self) -> tuple[str, int]:
        """Prompt and seed: the clips of all variants that are compared with each other."""
        return self.prompt.id, self.seed

    def absolute(self) -> "Job":
        """Return the job for a worker, which may have another working directory."""
        image = None if self.prompt.image is None else str(Path(self.prompt.image).absolute())
        return replace(self, path=self.path.absolute(), prompt=replace(self.prompt, image=image))

    def done(self) -> bool:
        """Return whether the clip exists as it was written.

        Raises:
            DamagedError: it must be generated again. ValueError: it was generated for another request.
        """
        if not self.json_path.is_file():
            if self.path.is_file():
                raise DamagedError("its JSON, which is written last, is missing")
            return False
        recorded = read_object(self.json_path, DamagedError)
        self.check_request(recorded)
        if not self.path.is_file():
            raise DamagedError("the file is missing")
        check_file(self.path, recorded)
        return True

    def check_request(self, recorded: dict[str, Any]) -> None:
        """Refuse a clip of another request.

        Raises:
            ValueError: naming the file, and what was requested before and now.
        """
        earlier = recorded.get(REQUEST)
        if not isinstance(earlier, dict):
            raise ValueError(f"output: {self.json_path} was not written by a sweep; choose another folder")
        changed = [name for name in self.request if earlier.get(name) != self.request[name]]
        if changed:
            before, now = ({name: request.get(name) for name in changed} for request in (earlier, self.request))
            raise ValueError(f"output: {self.path} was generated with {before}, not {now}; choose another folder")


def check_file(path: AnyPath, recorded: dict[str, Any]) -> None:
    """Compare a clip's file with its JSON: by size and SHA-256, or in the JSON of earlier versions by its frames.

    Raises:
        DamagedError: naming the difference.
    """
    files = recorded.get("files")
    if files is None:
        check_frames(path, recorded)
        return
    expected = files.get(path.name) if isinstance(files, dict) else None
    if not isinstance(expected, dict):
        raise DamagedError(f"its JSON has no size and SHA-256 of {path.name}")
    size = path.stat().st_size
    if size != expected.get("bytes"):
        raise DamagedError(f"the file has {size} bytes, not the {expected.get('bytes')} that were written")
    if describe_file(path) != expected:
        raise DamagedError("the content of the file has changed since it was written")


def check_frames(path: AnyPath, recorded: dict[str, Any]) -> None:
    """Compare the frames of a clip with the SHA-256 in its JSON; raises as :func:`check_file`."""
    if not isinstance(path, Path):
        raise DamagedError("its JSON has no size and SHA-256 of the file")
    try:
        same = read(path).sha256 == recorded.get("sha256")
    except ReadError as error:
        raise DamagedError(str(error)) from None
    if not same:
        raise DamagedError("the file has other frames than were written")


def jobs(sweep: Sweep, folder: AnyPath) -> list[Job]:
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
    counts = Counter(converted)
    for name, file_name in zip(names, converted, strict=True):
        if not file_name or counts[file_name] > 1:
            raise ValueError(f"{field}: the file name {file_name!r} of {name!r} must be unique; rename it")
    return converted


def make_request(sweep: Sweep, prompt: Prompt, seed: int, arm: Arm) -> dict[str, Any]:
    """Return everything that determines a clip, as its JSON records it; the device does not."""
    placement = {name: value for name, value in sweep.placement.items() if name not in ("device", "setup")}
    if setup := sweep.placement.get("setup", Setup()).values():
        placement["setup"] = setup
    variant = {"model": sweep.model, **placement, "seed": seed, "arm": arm.name, "guidance": arm.guidance}
    return {**variant, **dataclasses.asdict(prompt), "settings": {**sweep.settings, **arm.settings}}
