"""Make vbench.json again: the values of VBench's own functions on our clips, with the backbones of stub_backbones.py.

In an environment of its own, for VBench pins old versions of much (Python 3.11, from the root of this repository):

    python -m venv /somewhere && /somewhere/bin/pip install vbench==0.1.5 "setuptools<81"
    /somewhere/bin/python -m tests.helpers.vbench_goldens

Nothing is downloaded: each function gets a stub in the place of its network. VBench picks its reader by the suffix, so
the lossless files are called .mp4; decord and OpenCV tell FFV1 in Matroska by its content.
"""

import importlib
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.helpers import known_clips as clips
from tests.helpers import stub_backbones as stubs

# A torchvision built for CUDA beside a torch for CPU lacks two operators, which nothing here calls.
LIBRARY: Any = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def module(name: str) -> Any:
    return importlib.import_module(f"vbench.{name}")


def moves() -> Any:
    """VBench's DynamicDegree without its network."""
    made = module("dynamic_degree").DynamicDegree
    dynamic = made.__new__(made)
    dynamic.device = "cpu"
    dynamic.model = lambda first, second, **_: (None, stubs.flow(first, second))
    return dynamic


def speeds(path: str) -> float:
    """Mean over pairs of what VBench compares with its threshold."""
    dynamic = moves()
    dynamic.check_move = lambda found: sum(found) / len(found)
    return float(dynamic.infer(path))


def values(path: str) -> dict[str, float]:
    """Every function on one file."""
    picture = SimpleNamespace(encode_image=lambda images: stubs.features(images, 1), eval=lambda: None)
    subject = module("subject_consistency").subject_consistency
    background = module("background_consistency").background_consistency
    aesthetic = module("aesthetic_quality").laion_aesthetic
    return {
        "temporal_flickering": float(module("temporal_flickering").cal_score(path)),
        "subject_consistency": subject(lambda images: stubs.features(images, 0), [path], "cpu", False)[0],
        "background_consistency": background(picture, None, [path], "cpu", False)[0],
        "aesthetic_quality": aesthetic(stubs.head(), picture, [path], "cpu")[0],
        "dynamic_degree": float(moves().infer(path)),
        "dynamic_degree_speed": float(speeds(path)),
    }


def main() -> None:
    goldens: dict[str, Any] = {"source": "VBench 0.1.5, made by tests/helpers/vbench_goldens.py"}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in clips.EVERY.items():
            stored = make().save(Path(folder) / f"{name}.mkv")
            path = stored.rename(stored.with_suffix(".mp4"))
            for metric, value in values(str(path)).items():
                goldens.setdefault(metric, {})[name] = value
    (Path(__file__).parents[1] / "eval" / "vbench.json").write_text(json.dumps(goldens, indent=2) + "\n")


if __name__ == "__main__":
    main()
