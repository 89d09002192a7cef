"""The clips to score, with the texts, seed and arm of each.

Texts come from the manifest, else from the JSON file next to the clip (`vidguide generate` writes one). `prompt`
generated the clip; `eval_prompt` is the text it is scored against, by default the prompt. Clips of the same prompt and
seed share the negative prompt, so that an arm generated without it is scored against the same negative.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vidguide.eval.clips.errors import ManifestError
from vidguide.eval.clips.images import IMAGES
from vidguide.eval.clips.manifest import read_manifest, read_sidecar
from vidguide.eval.clips.read import VIDEOS

ANIMATIONS = (".gif", ".webp", ".apng")
LOSSLESS_FIRST = (".mkv", ".avi", ".mov")  # preferred among several files of one name: the others are upscaled copies


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
    """Return the clips in files and folders and those that the manifest names, with their texts.

    Args:
        sources: videos, frame folders, or folders of them.
        manifest: texts by clip, see :func:`vidguide.eval.clips.manifest.read_manifest`.

    Raises:
        ManifestError: invalid content of the manifest or of the JSON file next to a clip.
        FileNotFoundError: a source does not exist.
    """
    clips = {clip: read_sidecar(clip) for clip in unique_clips(sources)}
    if manifest:
        for clip, fields in match_clips(manifest, list(clips)).items():
            clips[clip] = {**(clips.get(clip) or read_sidecar(clip)), **fields}
    return share_negatives(make_entry(clip, fields) for clip, fields in clips.items())


def unique_clips(sources: Iterable[Path]) -> list[Path]:
    """Return the clips in files and folders; of several paths to one clip, such as relative and absolute, the first."""
    clips: dict[str, Path] = {}
    for source in sources:
        for clip in find_clips(source):
            clips.setdefault(absolute(clip), clip)
    return list(clips.values())


def absolute(path: Path) -> str:
    """Return an absolute path without `..`; symbolic links remain, because each may have a JSON file of its own."""
    return os.path.normpath(path.absolute())


def match_clips(manifest: Path, clips: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Return the fields of each clip that a manifest names: one of the clips, else a path relative to the manifest.

    An entry names a clip by its path, absolute or relative to the manifest or the working directory, or by its file
    name with or without suffix.

    Raises:
        ManifestError: a name matches several clips, or two entries the same clip.
    """
    paths = {path: clip for clip in clips for path in (str(clip.resolve()), absolute(clip))}
    names: dict[str, list[Path]] = defaultdict(list)
    for clip in clips:
        for name in {str(clip), clip.name, clip.stem}:
            names[name].append(clip)
    fields: dict[Path, dict[str, Any]] = {}
    entries_by_path: dict[str, str] = {}
    for name, given in read_manifest(manifest).items():
        clip = match_clip(manifest, name, paths, names)
        other = entries_by_path.setdefault(absolute(clip), name)
        if other != name:
            raise ManifestError(f"{manifest}: {other!r} and {name!r} are the same clip; remove one of them")
        fields[clip] = given
    return fields


def match_clip(manifest: Path, name: str, paths: Mapping[str, Path], names: Mapping[str, Sequence[Path]]) -> Path:
    """Return the clip that a manifest entry names.

    Args:
        manifest: path of the manifest.
        name: of the clip in the manifest.
        paths: clips by absolute path, with and without symbolic links.
        names: clips by path as given, file name and stem.
    """
    relative = manifest.parent / name
    for path in (absolute(relative), str(relative.resolve()), absolute(Path(name)), str(Path(name).resolve())):
        if path in paths:
            return paths[path]
    matches = names.get(name, ())
    if len(matches) > 1:
        candidates = ", ".join(str(clip) for clip in matches[:3])
        raise ManifestError(f"{manifest}: clip {name!r} is ambiguous ({candidates}); give the path")
    return matches[0] if matches else relative


def make_entry(clip: Path, fields: dict[str, Any]) -> Entry:
    """Return an entry; by default the arm is the folder name, and prompt_id the text, else the file name."""
    prompt = fields.get("prompt")
    eval_prompt = fields.get("eval_prompt") or prompt
    return Entry(
        clip=clip,
        arm=fields.get("arm") or clip.resolve().parent.name,
        prompt_id=fields.get("prompt_id") or eval_prompt or clip.stem,
        seed=fields.get("seed"),
        prompt=prompt,
        eval_prompt=eval_prompt,
        negative_prompt=fields.get("negative_prompt"),
    )


def share_negatives(clips: Iterable[Entry]) -> list[Entry]:
    """Give clips without a negative prompt that of the other clips of the same prompt and seed, if it is unique."""
    listed = list(clips)
    negatives: dict[Any, set[str]] = defaultdict(set)
    for entry in listed:
        if entry.negative_prompt:
            negatives[entry.prompt_id, entry.seed].add(entry.negative_prompt)
    shared = {key: next(iter(texts)) for key, texts in negatives.items() if len(texts) == 1}
    return [
        entry if entry.negative_prompt else replace(entry, negative_prompt=shared.get((entry.prompt_id, entry.seed)))
        for entry in listed
    ]


def find_clips(source: Path) -> list[Path]:
    """Return the clips in a file or folder: videos, folders of frames, or animations where there are no videos.

    Images next to videos are contact sheets and are ignored. Of files with the same name, the lossless one is used.

    Raises:
        FileNotFoundError: the source does not exist.
    """
    if not source.exists():
        raise FileNotFoundError(f"clips={str(source)!r}: no such file or folder")
    return [source] if source.is_file() else search_folder(source, set())


def search_folder(folder: Path, searched: set[Path]) -> list[Path]:
    """Return the clips in a folder; a folder that was searched already, by a symbolic link, has none."""
    if folder.resolve() in searched:
        return []
    searched.add(folder.resolve())
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    videos = preferred_videos(visible)
    nested = [clip for path in visible if path.is_dir() for clip in search_folder(path, searched)]
    if videos or nested:
        return [*videos, *nested]
    images = [path for path in visible if path.is_file() and path.suffix.lower() in IMAGES]
    if images and all(path.suffix.lower() in ANIMATIONS for path in images):
        return images
    return [folder] if images else []


def preferred_videos(paths: Iterable[Path]) -> list[Path]:
    """Return the video files among paths; of several with the same stem the preferred one."""
    videos: dict[str, Path] = {}
    for path in paths:
        if path.is_file() and path.suffix.lower() in VIDEOS:
            best = videos.setdefault(path.stem, path)
            if preference(path) < preference(best):
                videos[path.stem] = path
    return list(videos.values())


def preference(path: Path) -> int:
    """Return the rank of a file among those of the same name; 0 is preferred."""
    suffix = path.suffix.lower()
    return LOSSLESS_FIRST.index(suffix) if suffix in LOSSLESS_FIRST else len(LOSSLESS_FIRST)


def to_row(entry: Entry) -> dict[str, Any]:
    """Return the entry as JSON values."""
    return {**asdict(entry), "clip": str(entry.clip)}
