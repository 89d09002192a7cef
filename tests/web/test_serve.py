"""The command `vidguide serve` without a browser."""

import importlib.util
import runpy
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.helpers.source_files import ROOT
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.cli.serve import check_address
from vidguide.pipelines.web.players import Player, players

RUNNER, SPACE = CliRunner(), ROOT / "examples" / "space"


def test_the_error_names_the_extra_where_gradio_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    missing: Any = lambda name, *rest: None if name == "gradio" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr("vidguide.pipelines.web.extra.find_spec", missing)
    result = RUNNER.invoke(app, ["serve"])
    assert result.exit_code == 2
    assert 'pip install "vidguide[web]"' in " ".join(result.output.split())


def test_the_help_ends_with_an_example() -> None:
    result = RUNNER.invoke(app, ["serve", "--help"])
    assert result.exit_code == 0
    assert "Example: vidguide serve" in result.output.strip().splitlines()[-1]


def test_an_address_that_cannot_be_listened_on_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port={port}: is in use"):
            check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)
    check_address("localhost", None)
    with pytest.raises(OSError, match=r"host='192\.0\.2\.1': must be an address of this machine"):
        check_address("192.0.2.1", None)  # RFC 5737: of no machine
    result = RUNNER.invoke(app, ["serve", "--port", "99999"])
    assert result.exit_code == 2
    assert "Invalid value for '--port'" in result.output


@pytest.mark.web
@pytest.mark.filterwarnings("default")  # Gradio leaves sockets and event loops to the garbage collector
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-steps", "0"], "max_steps=0: must be an integer of at least 1"),
        (["--model", "tinny"], "model='tinny': unknown"),
        (["--vote-only"], "folder: is missing; --vote-only needs the folder of a sweep"),
        (["missing"], "folder='missing': must be a folder that a sweep or evaluation wrote"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="needs vidguide[web]")
    monkeypatch.chdir(tmp_path)
    result = RUNNER.invoke(app, ["serve", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.web
@pytest.mark.filterwarnings("default")  # Gradio leaves sockets and event loops to the garbage collector
def test_the_space_serves_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="needs vidguide[web]")
    names = runpy.run_path(str(SPACE / "app.py"))
    launched: list[Any] = []
    monkeypatch.setitem(names["main"].__globals__, "launch", lambda *parts: launched.append(parts))
    names["main"]()
    [(server, page)] = launched
    assert page.title == "vidguide"
    assert server.limits.frames == 33
    server.files.close()


def test_the_space_has_the_header_and_the_packages_that_hugging_face_reads() -> None:
    _, header, text = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["sdk"] == "gradio"
    assert (SPACE / fields["app_file"]).is_file()
    assert "ZeroGPU" in text
    assert "vidguide[web]" in (SPACE / "requirements.txt").read_text()


def test_texts_of_others_are_escaped_in_the_players() -> None:
    hostile = "</section><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    player = Player(video=f"a{hostile}", label=hostile, note=hostile, links=[(hostile, hostile)])
    page = players([player, None], fps=8, frames=13, title=hostile, columns=2)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") == 8
    assert page.count("<figure>") == 2
