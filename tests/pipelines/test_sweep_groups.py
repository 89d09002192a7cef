"""Workers that are groups of processes: two processes on a CPU share each clip of a sweep, over gloo."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed
import yaml

from tests.helpers.group_setup import count_one_accelerator
from vidguide.eval.clips.read import read
from vidguide.eval.pool.processes import Processes
from vidguide.pipelines.sweep.config import Sweep, read_sweep
from vidguide.pipelines.sweep.groups import GroupWorker
from vidguide.pipelines.sweep.run import run

CONFIG: dict[str, Any] = {
    **{"model": "tiny-4step", "prompts": ["a large circle"], "seeds": 2, "arms": ["none", "nag"]},
    **{"negative_prompt": "blue", "steps": 2, "height": 32, "width": 32, "frames": 5, "device": "cpu"},
}


class CheckedGroupWorker(GroupWorker):
    """A group that checks that its first process has half of the tokens."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        transformer, self.whole, self.part = self._worker.pipe.transformer, list[int](), list[int]()
        transformer.patch_embedding.register_forward_hook(lambda *call: self.whole.append(call[2][0, 0].numel()))
        transformer.blocks[1].register_forward_pre_hook(lambda *call: self.part.append(call[1][0].shape[1]))

    def __call__(self, job: Any) -> Any:
        made = super().__call__(job)
        assert max(self.part) == max(self.whole) // 2, (self.part, self.whole)
        return made


class KilledGroupWorker(GroupWorker):
    """A group, of which the second process is killed in the first clip of all."""

    def __call__(self, job: Any) -> Any:
        marker = Path(f"{job.path.parents[2]}.killed")
        if not marker.exists():
            marker.touch()
            os.kill(self._processes[0].pid, signal.SIGKILL)
        return super().__call__(job)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return read_sweep(tmp_path / "sweep.yaml")


def assert_clips_equal(folder: Path, reference: Path) -> None:
    """Assert that all clips are those of another folder, up to the rounding of one level."""
    paths = sorted(path.relative_to(reference) for path in reference.rglob("*.mkv"))
    assert len(paths) == 4
    assert paths == sorted(path.relative_to(folder) for path in folder.rglob("*.mkv"))
    for path in paths:
        frames, expected = (read(root / path).frames.astype(int) for root in (folder, reference))
        assert np.abs(frames - expected).max() <= 1, path


@pytest.mark.slow
def test_two_groups_of_two_processes_make_the_clips_of_one_process(sweep: Sweep, tmp_path: Path) -> None:
    run(sweep, tmp_path / "serial")
    checked = partial(CheckedGroupWorker, size=2, prepare=count_one_accelerator)
    result = run(sweep, tmp_path / "groups", backend=Processes(2), worker=checked)
    assert (result.failed, len(result.made)) == ({}, 4)
    assert_clips_equal(tmp_path / "groups", tmp_path / "serial")


@pytest.mark.slow
def test_a_group_of_which_a_process_is_killed_is_replaced(sweep: Sweep, tmp_path: Path) -> None:
    run(sweep, tmp_path / "serial")
    killed = partial(KilledGroupWorker, size=2, prepare=count_one_accelerator)
    result = run(sweep, tmp_path / "groups", backend=Processes(2), worker=killed)
    assert (tmp_path / "groups.killed").exists()
    assert (result.failed, len(result.made)) == ({}, 4)
    assert_clips_equal(tmp_path / "groups", tmp_path / "serial")


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="size=1: must be at least 2"):
        GroupWorker(size=1)
