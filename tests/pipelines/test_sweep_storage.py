"""Sweeps into the URL of an object store, which are memory:// and file:// here."""

import json
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import psutil
import pytest
import torch
import yaml
from typer.testing import CliRunner

from vidguide.clip import Clip, describe_file
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.sweep import run as sweep_run
from vidguide.pipelines.sweep.config import Sweep, read_sweep
from vidguide.pipelines.sweep.lease import HeldError, lease
from vidguide.pipelines.sweep.run import run
from vidguide.pipelines.sweep.storage import ObjectPath, output_path, save_clip

CONFIG: dict[str, Any] = {"model": "tiny-4step", "prompts": ["a circle"], "seeds": 3, "arms": ["none", "cfg:2"]}


def noise(prompt: str, *, seed: int, guidance: Any, **settings: Any) -> Clip:
    """Return a clip of noise that seed and guidance determine, without a model."""
    frames = np.random.default_rng([seed, len(guidance)]).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    return Clip(frames=frames, fps=8, provenance={"prompt": prompt, "seed": seed, "model": "noise", "guidance": []})


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of six clips that takes no model."""
    pipe = SimpleNamespace(_execution_device=torch.device("cpu"))
    monkeypatch.setattr(sweep_run, "load", lambda *arguments, **options: pipe)
    monkeypatch.setattr(sweep_run, "generate", noise)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return read_sweep(tmp_path / "sweep.yaml")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder of an object store."""
    folder = f"/{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "bucket")
    yield f"{request.param}://{folder}"
    fsspec.filesystem("memory").store.clear()


def names(url: str) -> list[str]:
    file_system, folder = fsspec.core.url_to_fs(url)
    return sorted(path.removeprefix(f"{folder}/") for path in file_system.find(folder))


def test_a_sweep_writes_whole_objects_and_continues(sweep: Sweep, url: str, tmp_path: Path) -> None:
    local = run(sweep, tmp_path / "local").paths
    result = run(sweep, url)
    assert (len(result.made), result.failed) == (6, {})
    assert names(url) == sorted(
        str(Path(path).with_suffix(suffix).relative_to(tmp_path / "local"))
        for path in local
        for suffix in (".mkv", ".json")
    )
    for path, other in zip(result.paths, local, strict=True):
        content, expected = (json.loads(each.with_suffix(".json").read_text()) for each in (path, other))
        assert content["sha256"] == expected["sha256"]
        assert content["files"] == {path.name: describe_file(path)}
    assert run(sweep, url).made == {}


def test_damaged_objects_are_made_again_and_named(sweep: Sweep, url: str) -> None:
    paths = run(sweep, url).paths
    file_system, _ = fsspec.core.url_to_fs(url)
    for path, content in zip(paths, [b"", bytes(10_000), None], strict=False):
        name = fsspec.core.url_to_fs(str(path))[1]
        if content is None:
            file_system.rm_file(name)
        else:
            file_system.pipe_file(name, content)
    result = run(sweep, url)
    assert list(result.remade) == paths[:3]
    assert run(sweep, url).remade == {}


def test_the_json_is_written_last_and_an_earlier_one_is_removed_first(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = output_path(url) / "clip.mkv"
    save_clip(noise("a", seed=0, guidance=()), path)
    events: list[tuple[str, bool]] = []
    upload = ObjectPath.upload

    def observed(self: ObjectPath, file: Path) -> None:
        events.append((self.name, self.with_suffix(".json").is_file()))
        upload(self, file)

    monkeypatch.setattr(ObjectPath, "upload", observed)
    save_clip(noise("b", seed=1, guidance=()), path)
    assert events == [("clip.mkv", False), ("clip.json", False)]


def test_a_second_run_on_a_url_is_refused_and_a_dead_one_is_replaced(sweep: Sweep, url: str) -> None:
    target = output_path(url)
    assert isinstance(target, ObjectPath)
    with lease(target) as claim:
        claim.check()
        with pytest.raises(HeldError, match=f"is in use by process .* on .*; .* remove {url}/sweep.lock"):
            run(sweep, url)
        (target / "sweep.lock").unlink()
        with pytest.raises(HeldError, match="is missing"):
            claim.check()
        dead = max(psutil.pids()) + 100_000
        holder = {"host": platform.node(), "pid": dead, "created": 0.0, "started": "today"}
        (target / "sweep.lock").create(json.dumps(holder))
        with pytest.raises(HeldError, match="taken over"):
            claim.check()
    assert len(run(sweep, url).made) == 6
    (target / "sweep.lock").create(json.dumps({**holder, "host": "another host"}))
    with pytest.raises(HeldError, match=r"process \d+ on another host"):
        run(sweep, url)


def test_the_command_refuses_to_score_a_url_before_it_generates(sweep: Sweep, tmp_path: Path) -> None:
    arguments = ["sweep", str(tmp_path / "sweep.yaml"), "-o", f"memory:///{uuid.uuid4().hex}"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, "only clips in a folder are scored; pass --no-score" in done.stderr) == (2, True)
    assert names(arguments[-1]) == []
    done = CliRunner().invoke(app, [*arguments, "--no-score"])
    assert (done.exit_code, f"6 of 6 clips are in {arguments[-1]}" in done.stdout) == (0, True), done.output
    fsspec.filesystem("memory").store.clear()


def test_an_unknown_protocol_is_refused(sweep: Sweep) -> None:
    with pytest.raises(ValueError, match=r"output='nowhere://a': Protocol not known"):
        run(sweep, "nowhere://a")
