"""Generate vbench.json: values of VBench's functions on the clips of known_clips.py, with stub backbones.

VBench pins old versions of its dependencies and needs its own environment (Python 3.11, run from the repository root):

    python -m venv /somewhere && /somewhere/bin/pip install vbench==0.1.5 "setuptools<81"
    /somewhere/bin/python -m tests.helpers.vbench_goldens

Nothing is downloaded: stubs replace the networks. VBench selects its reader by suffix, so the lossless files are named
.mp4; decord and OpenCV recognise FFV1 in Matroska by content.
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

# A torchvision built for CUDA lacks two operators with a CPU build of torch; nothing here calls them.
LIBRARY: Any = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def module(name: str) -> Any:
    return importlib.import_module(f"vbench.{name}")


def dynamic_degree() -> Any:
    """Return VBench's DynamicDegree without its network."""
    cls = module("dynamic_degree").DynamicDegree
    dynamic = cls.__new__(cls)
    dynamic.device = "cpu"
    dynamic.model = lambda first, second, **_: (None, stubs.flow(first, second))
    return dynamic


def speeds(path: str) -> float:
    """Return the mean over pairs of the speed that VBench compares with its threshold."""
    dynamic = dynamic_degree()
    dynamic.check_move = lambda speeds: sum(speeds) / len(speeds)
    return float(dynamic.infer(path))


def values(path: str) -> dict[str, float]:
    """Return the values of all functions on one file."""
    picture = SimpleNamespace(encode_image=lambda images: stubs.features(images, 1), eval=lambda: None)
    subject = module("subject_consistency").subject_consistency
    background = module("background_consistency").background_consistency
    aesthetic = module("aesthetic_quality").laion_aesthetic
    return {
        "temporal_flickering": float(module("temporal_flickering").cal_score(path)),
        "subject_consistency": subject(lambda images: stubs.features(images, 0), [path], "cpu", False)[0],
        "background_consistency": background(picture, None, [path], "cpu", False)[0],
        "aesthetic_quality": aesthetic(stubs.head(), picture, [path], "cpu")[0],
        "dynamic_degree": float(dynamic_degree().infer(path)),
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
