"""Metrics named `vbench.` equal VBench's own functions, whose values on our clips lie in vbench.json.

To make them again, in an environment of its own: unpack the wheel of vbench 0.1.5 (`pip download --no-deps`), put an
empty `vbench.utils` with `load_dimension_info = None` in `sys.modules`, save each clip below as .mkv, and print
`vbench.temporal_flickering.cal_score(path)`.
"""

import json
from pathlib import Path

import pytest

from tests.eval import clips
from vidguide.eval.metrics import METRICS
from vidguide.eval.sample import Sample

GOLDENS = json.loads((Path(__file__).parent / "vbench.json").read_text())["temporal_flickering"]
CLIPS = {
    "constant": clips.constant,
    "translation": clips.translation,
    "noise": lambda: clips.noisy(8),
    "flash": lambda: clips.flash(60),
    "fade": lambda: clips.fade(5),
    "duplicated": clips.duplicated,
    "jittered": lambda: clips.jittered(2),
}


@pytest.mark.parametrize("name", CLIPS)
def test_flickering_is_vbenchs(name: str) -> None:
    measured = METRICS["vbench.temporal_flickering"](Sample(CLIPS[name]())).value
    assert measured == pytest.approx(GOLDENS[name], abs=1e-6)
