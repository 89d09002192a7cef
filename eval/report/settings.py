"""The settings of each arm, as the JSON next to its clips states them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidguide.eval.clips.errors import ManifestError
from vidguide.eval.files import read_json

SHOWN = (  # fields of a clip's JSON that are equal in all clips of an arm
    *("model", "revision", "preset", "guidance", "steps", "guidance_scale", "frames", "height", "width", "fps"),
    *("max_sequence_length", "device", "dtype", "offload", "weights", "versions"),
)


def arm_settings(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return each arm with the settings of its first clip as text; an arm whose clips have no such JSON is left out."""
    first = {row["arm"]: Path(row["clip"]) for row in reversed(rows)}
    settings = [(arm, clip_settings(first[arm])) for arm in dict.fromkeys(row["arm"] for row in rows)]
    return [(arm, text) for arm, text in settings if text]


def clip_settings(clip: Path) -> str:
    """Return a line per setting in the JSON next to a clip; empty where there is none that can be read."""
    path = clip.with_suffix(".json")
    try:
        content = read_json(path, ManifestError) if path.is_file() else {}
    except (ManifestError, OSError):
        return ""
    shown = [name for name in SHOWN if isinstance(content, dict) and content.get(name) is not None]
    return "\n".join(f"{name}: {json.dumps(content[name], ensure_ascii=False)}" for name in shown)
