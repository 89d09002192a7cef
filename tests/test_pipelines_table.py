"""docs/pipelines.md lists every video pipeline of diffusers, as the cases of the tests have it."""

from pathlib import Path

import pytest

pytest.importorskip("diffusers.modular_pipelines.echo")  # the page is for 0.42

from tests.helpers.pipelines_table import render, standard_pipelines

PAGE = Path(__file__).parent.parent / "docs" / "pipelines.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "write it with `python -m tests.helpers.pipelines_table`"


def test_all_standard_video_pipelines_are_listed() -> None:
    assert len(standard_pipelines()) == 59  # 62 on these transformers, of which three make images
