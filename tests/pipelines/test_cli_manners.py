"""Manners of the command line: version, width, progress, help, completion, exit codes, and no network."""

import io
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from vidguide.eval import hub
from vidguide.eval.report import progress
from vidguide.eval.report.console import console
from vidguide.guiding.locate import listing
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.generate import generate
from vidguide.pipelines.loading import progress_bars
from vidguide.pipelines.loading.load import load
from vidguide.pipelines.models.presets import MODELS
from vidguide.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the variable COLUMNS, which pytest-xdist sets for its workers."""
    monkeypatch.setattr(console, "_width", None)


def output_of(*arguments: str) -> str:
    """Run a command of `vidguide` and return its standard output, which is no terminal."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def commands(command: Any, name: str = "vidguide") -> Iterator[tuple[str, Any]]:
    """Yield a command and its subcommands, by name."""
    yield name, command
    for part, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{name} {part}")


def test_the_version_has_one_source() -> None:
    assert output_of("--version") == f"vidguide {__version__}\n"
    text = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text
    assert not re.search(r"^version = \"", text, flags=re.MULTILINE)


def test_tables_in_a_pipe_have_one_full_line_for_each_row() -> None:
    lines = output_of("models").splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(MODELS)
    assert all(model.about in line for model, line in zip(MODELS.values(), lines, strict=True))
    lines = output_of("locate", "--list").splitlines()[1:]
    assert len(lines) == len(listing())
    assert all(cell in line for row, line in zip(listing(), lines, strict=True) for cell in row.values())


@pytest.mark.parametrize("width", [80, 60])
def test_tables_on_a_narrow_terminal_are_complete(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", width)
    models, families = output_of("models"), output_of("locate", "--list")
    assert max(map(len, (models + families).splitlines())) <= width
    assert "…" not in models + families
    words = " ".join(models.split())
    assert all(name in words and model.about in words for name, model in MODELS.items())
    rows = {row["family"]: row["transformers"] for row in listing()}
    if width == 80:  # one line each
        lines = [line.split("  ") for line in families.splitlines()]
        assert {line[0]: " ".join(line[1:]).split()[0] for line in lines if line[0] in rows} == rows
    assert all(name in families and classes in families for name, classes in rows.items())


def progress_output(terminal: bool, hidden: bool, interval: float, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what a task of three parts prints."""
    monkeypatch.setattr(progress, "INTERVAL", interval)
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with progress.Progress("clips", hidden=hidden, console=screen) as bar:
        for _ in range(3):
            bar.update(total=3)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress_output(False, False, 0, monkeypatch) == "clips: 1 of 3\nclips: 2 of 3\nclips: 3 of 3\n"
    assert progress_output(False, False, 30, monkeypatch) == ""
    assert "3/3" in progress_output(True, False, 0, monkeypatch)
    assert progress_output(True, True, 0, monkeypatch) == progress_output(False, True, 0, monkeypatch) == ""


def test_steps_are_lines_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = load("tiny", device="cpu")
    small: dict[str, Any] = dict(pipe=pipe, steps=3, frames=5, height=32, width=32)
    generate("a red circle", **small)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress_bars, "INTERVAL", 0.0)
    generate("a red circle", **small)
    lines = capsys.readouterr().err
    assert "\r" not in lines
    assert re.fullmatch(r"([0-3] of 3 steps, \d\d:\d\d\n)+", lines)
    monkeypatch.setattr(progress_bars, "shows_bars", lambda: True)
    generate("a red circle", **small)
    assert "\r" in capsys.readouterr().err


EXAMPLES = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_of_every_command_ends_with_an_example_that_parses(name: str) -> None:
    command, epilog = EXAMPLES[name], EXAMPLES[name].epilog or ""
    assert epilog.startswith(f"Example: {name} "[:-1])
    assert len(epilog) < 80  # one line of the help
    words = shlex.split(epilog.removeprefix(f"Example: {name}"))
    path = name if not hasattr(command, "commands") else f"{name} {words.pop(0)}"
    EXAMPLES[path].make_context(path, words)
    with pytest.raises(Exception, match="No such option"):
        EXAMPLES[path].make_context(path, [*words, "--no-such-option"])
    shown = CliRunner().invoke(app, [*name.split()[1:], "--help"]).stdout.strip().splitlines()
    assert shown[-1].strip() == epilog


def test_the_shell_completes_commands() -> None:
    words = {"_VIDGUIDE_COMPLETE": "complete_bash", "COMP_WORDS": "vidguide ge", "COMP_CWORD": "1"}
    assert CliRunner().invoke(app, [], prog_name="vidguide", env=words).stdout.split() == ["generate"]


def test_an_interrupted_command_exits_with_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vidguide.pipelines.generate.generate", interrupt)
    assert CliRunner().invoke(app, ["generate", "a red circle", "-o", str(tmp_path / "a.mp4")]).exit_code == 130


def test_without_a_network_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # a port that nothing listens on
    started = time.monotonic()
    with pytest.raises(OSError, match=r"'model_index\.json' of Hugging Face repo id 'a/b'.*the Hub cannot be reached"):
        load("a/b", device="cpu")
    assert time.monotonic() - started < 5
    assert hub.only_cached("a/b")
    assert not hub.only_cached(str(ROOT))


def test_an_answer_of_the_hub_holds_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append((url, timeout))

    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://answers.invalid")
    assert hub.is_reachable()
    assert not hub.only_cached("a/b")
    assert asked == [("http://answers.invalid", hub.TIMEOUT)]
