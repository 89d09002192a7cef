"""The files that run in one guided step, which CONTRIBUTING.md lists."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import NAG, guide
from vidguide.guiding.forward import GuidedForward

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vidguide"


class FileTracer:
    """A profile function that stores the file of each call in the package, without consecutive duplicates.

    Without `restoring`, through which every context of ours passes, as it does through contextlib.
    """

    def __init__(self) -> None:
        self.visited: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and path.name != "restoration.py":
            name = path.relative_to(PACKAGE).as_posix()
            if not self.visited or self.visited[-1] != name:
                self.visited.append(name)


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the files in which the first plan of one NAG is made, in the order of calls, as pipelines sample."""
    tracer, plan = FileTracer(), GuidedForward._plan

    def traced(self: GuidedForward, *args: Any) -> Any:
        sys.setprofile(tracer)
        try:
            return plan(self, *args)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(GuidedForward, "_plan", traced)
    model, scheduler = tiny_wan(), FlowMatchEulerDiscreteScheduler()
    with torch.no_grad(), guide(model, NAG(negative_prompt_embeds=negative_text()), scheduler=scheduler):
        scheduler.set_timesteps(2)
        model(**wan_inputs())
    return tracer.visited


def test_the_first_plan_of_nag_moves_between_few_files(visited: list[str]) -> None:
    text_sites = len(tiny_wan().blocks)
    assert len(visited) <= 37 + 2 * text_sites


def test_contributing_lists_the_files_of_a_step(visited: list[str]) -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("<!-- step -->")[1].split("<!-- /step -->")[0]
    listed = [line.split("`")[1].removeprefix("vidguide/") for line in table.splitlines() if line.startswith("| `")]
    assert listed == sorted(set(visited), key=visited.index)
