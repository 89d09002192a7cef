"""Which clips to score, and the texts, seed and arm of each.

Texts come from the manifest, else from the JSON beside the clip (`vidguide generate` writes one). `prompt` made the
clip, `eval_prompt` is what it is scored against; without one of its own it is the prompt. A negative prompt is shared
by the clips of one prompt and seed: the arm made without it is asked the same question.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vidguide.eval.clips.errors import ManifestError
from vidguide.eval.clips.images import IMAGES
from vidguide.eval.clips.manifest import beside, read_manifest
from vidguide.eval.clips.read import VIDEOS

LOSSLESS_FIRST = (".mkv", ".avi", ".mov")  # of several files of one name, the one not meant for viewing


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One clip to score. Clips of two arms are paired by prompt_id and seed."""

    clip: Path
    arm: str
    prompt_id: str
    seed: int | None = None
    prompt: str | None = None
    eval_prompt: str | None = None
    negative_prompt: str | None = None


def entries(sources: Sequence[Path], manifest: Path | None = None) -> list[Entry]:
    """The clips in files and folders, and those that the manifest names, each with its texts.

    Raises:
        ManifestError: the manifest or a JSON beside a clip is not what it should be.
        FileNotFoundError: a source is not there.
    """
    listed = read_manifest(manifest) if manifest else {}
    clips: dict[Path, dict[str, Any]] = {}
    for source in sources:
        for clip in find(source):
            clips[clip] = beside(clip)
    for name, given in listed.items():
        matches = [clip for clip in clips if name in (str(clip), clip.name, clip.stem)]
        assert_one(manifest, name, matches)
        clip = matches[0] if matches else (manifest.parent / name if manifest else Path(name))
        clips[clip] = {**(clips.get(clip) or beside(clip)), **given}
    return share_negatives(make_entry(clip, fields) for clip, fields in clips.items())


def assert_one(manifest: Path | None, name: str, matches: list[Path]) -> None:
    """Refuse a name in the manifest that could be several clips."""
    if len(matches) > 1:
        found = ", ".join(str(clip) for clip in matches[:3])
        raise ManifestError(f"{manifest}: clip {name!r} could be {found}; give the path")


def make_entry(clip: Path, given: dict[str, Any]) -> Entry:
    """Fill in what was not said: arm from the folder, prompt_id from the text, else from the file name."""
    prompt = given.get("prompt")
    scored = given.get("eval_prompt") or prompt
    return Entry(
        clip=clip,
        arm=given.get("arm") or clip.resolve().parent.name,
        prompt_id=given.get("prompt_id") or scored or clip.stem,
        seed=given.get("seed"),
        prompt=prompt,
        eval_prompt=scored,
        negative_prompt=given.get("negative_prompt"),
    )


def share_negatives(found: Iterable[Entry]) -> list[Entry]:
    """Give clips without a negative prompt the one that all others of the same prompt and seed have."""
    every = list(found)
    named: dict[Any, set[str]] = defaultdict(set)
    for entry in every:
        if entry.negative_prompt:
            named[entry.prompt_id, entry.seed].add(entry.negative_prompt)
    shared = {key: negatives.copy().pop() for key, negatives in named.items() if len(negatives) == 1}
    return [
        entry if entry.negative_prompt else replace(entry, negative_prompt=shared.get((entry.prompt_id, entry.seed)))
        for entry in every
    ]


def find(source: Path) -> list[Path]:
    """The clips in a file or folder: videos, folders of frames, or, where there are no videos, animations alone.

    Pictures beside videos are contact sheets and no clips. Of a lossless file and a viewing copy, the first counts.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not source.exists():
        raise FileNotFoundError(f"clips={str(source)!r}: there is no such file or folder")
    if source.is_file():
        return [source]
    inside = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    videos: dict[str, Path] = {}
    for path in inside:
        if path.is_file() and path.suffix.lower() in VIDEOS:
            best = videos.setdefault(path.stem, path)
            if rank(path) < rank(best):
                videos[path.stem] = path
    below = [clip for path in inside if path.is_dir() for clip in find(path)]
    pictures = [path for path in inside if path.is_file() and path.suffix.lower() in IMAGES]
    if videos or below:
        return [*videos.values(), *below]
    if pictures and all(path.suffix.lower() in (".gif", ".webp", ".apng") for path in pictures):
        return pictures
    return [source] if pictures else []


def rank(path: Path) -> int:
    """Order of preference among files of one name."""
    suffix = path.suffix.lower()
    return LOSSLESS_FIRST.index(suffix) if suffix in LOSSLESS_FIRST else len(LOSSLESS_FIRST)


def as_row(entry: Entry) -> dict[str, Any]:
    """The entry as plain values."""
    return {**asdict(entry), "clip": str(entry.clip)}
