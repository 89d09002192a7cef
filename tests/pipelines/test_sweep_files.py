"""Sweeps and the files on the disk: damaged clips and JSON, failures, kills, leases and disks that are full."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from typer.testing import CliRunner

from vidguide.clip import Clip, describe_file, replace_whole, temporaries
from vidguide.eval.clips.read import read
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.request.provenance import device_name
from vidguide.pipelines.sweep import lease as leases
from vidguide.pipelines.sweep import run as sweep_run
from vidguide.pipelines.sweep.config import Sweep, read_sweep
from vidguide.pipelines.sweep.jobs import jobs
from vidguide.pipelines.sweep.lease import HeldError, lease
from vidguide.pipelines.sweep.run import run

CONFIG: dict[str, Any] = {
    "model": "tiny-4step",
    "prompts": ["a large circle", "a small square"],
    "seeds": 2,
    "arms": ["none", "nag"],
    "negative_prompt": "blue",
    "steps": 2,
}


def write_config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))
    return path


def fake_generate(prompt: str, *, seed: int, **settings: Any) -> Clip:
    """Return a clip of noise that prompt, seed and guidance determine, without a model."""
    name = f"{prompt} {seed} {settings['guidance'] == ()}"
    frames = np.random.default_rng(list(name.encode())).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    return Clip(frames=frames, fps=8, provenance={"prompt": prompt, "seed": seed, "model": "fake", "guidance": []})


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of eight clips that takes no model."""
    pipe = SimpleNamespace(_execution_device=torch.device("cpu"))
    monkeypatch.setattr(sweep_run, "load", lambda *args, **kwargs: pipe)
    monkeypatch.setattr(sweep_run, "generate", fake_generate)
    return read_sweep(write_config(tmp_path))


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): read(path).sha256 for path in sorted(folder.rglob("*.mkv"))}


def truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def copy_other(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def flip_a_bit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path: Path, other: Path) -> None:
    path.unlink()


def break_json(path: Path, other: Path) -> None:
    path.with_suffix(".json").write_text('{"prompt": ')


def empty_json(path: Path, other: Path) -> None:
    path.with_suffix(".json").write_bytes(b"")


def list_as_json(path: Path, other: Path) -> None:
    path.with_suffix(".json").write_text("[]")


def bytes_as_json(path: Path, other: Path) -> None:
    path.with_suffix(".json").write_bytes(b"\xff\xfe\x00")


def deep_json(path: Path, other: Path) -> None:
    path.with_suffix(".json").write_text("[" * 100_000)


def remove_json(path: Path, other: Path) -> None:
    path.with_suffix(".json").unlink()


def rename_in_json(path: Path, other: Path) -> None:
    json_path = path.with_suffix(".json")
    json_path.write_text(json_path.read_text().replace(path.name, "other.mkv"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "bytes, not the"),
        (empty, "the file has 0 bytes, not the"),
        (copy_other, "file has"),
        (flip_a_bit, "the content of the file has changed"),
        (remove, "the file is missing"),
        (break_json, "not JSON"),
        (empty_json, "not JSON"),
        (list_as_json, "is list, must be a JSON object"),
        (bytes_as_json, "not UTF-8"),
        (deep_json, "not JSON"),
        (remove_json, "its JSON, which is written last, is missing"),
        (rename_in_json, "has no size and SHA-256"),
    ],
)
def test_a_damaged_clip_is_generated_again_and_named(
    damage: Callable[[Path, Path], None], reason: str, sweep: Sweep, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    paths = run(sweep, folder).paths
    before = hashes(folder)
    damage(paths[3], paths[4])
    result = run(sweep, folder)
    assert list(result.made) == [paths[3]]
    assert list(result.remade) == [paths[3]]
    assert reason in result.remade[paths[3]]
    assert (len(before), hashes(folder)) == (8, before)
    assert not run(sweep, folder).remade


def test_clips_of_versions_without_hashes_of_files_are_compared_by_their_frames(sweep: Sweep, tmp_path: Path) -> None:
    paths = run(sweep, tmp_path / "out").paths
    for path in paths:
        json_path = path.with_suffix(".json")
        content = json.loads(json_path.read_text())
        del content["files"]
        json_path.write_text(json.dumps(content))
    truncate(paths[0], paths[1])
    copy_other(paths[2], paths[3])
    assert list(run(sweep, tmp_path / "out").remade) == [paths[0], paths[2]]


def test_a_json_that_no_sweep_wrote_is_not_replaced(sweep: Sweep, tmp_path: Path) -> None:
    path = run(sweep, tmp_path / "out").paths[0]
    path.with_suffix(".json").write_text('{"prompt": "mine"}')
    with pytest.raises(ValueError, match=rf"{path.with_suffix('.json')} was not written by a sweep; choose another"):
        run(sweep, tmp_path / "out")
    assert path.with_suffix(".json").read_text() == '{"prompt": "mine"}'


def test_the_json_has_size_and_sha256_of_every_file_of_the_clip(tmp_path: Path) -> None:
    clip = fake_generate("a", seed=0, guidance=())
    for suffix in (".mp4", ".mkv"):
        clip.save(tmp_path / f"clip{suffix}")
    files = json.loads((tmp_path / "clip.json").read_text())["files"]
    assert files == {name: describe_file(tmp_path / name) for name in ("clip.mp4", "clip.mkv")}
    other = fake_generate("b", seed=0, guidance=())
    other.save(tmp_path / "clip.mkv")
    assert list(json.loads((tmp_path / "clip.json").read_text())["files"]) == ["clip.mkv"]


def test_an_old_json_never_stands_next_to_new_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (fake_generate(name, seed=0, guidance=()) for name in "ab")
    target = first.save(tmp_path / "clip.mkv")
    replace, states = Path.replace, []

    def observed(self: Path, to: Path) -> Path:
        states.append((to.name, (tmp_path / "clip.json").exists(), describe_file(target) if target.exists() else None))
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", observed)
    second.save(target)
    assert [(name, has_json) for name, has_json, _ in states] == [("clip.mkv", False), ("clip.json", False)]


def test_an_encoder_that_fails_leaves_the_earlier_clip_and_its_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (fake_generate(name, seed=0, guidance=()) for name in "ab")
    target = first.save(tmp_path / "clip.mkv")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Clip, "_encode", fail)
    with pytest.raises(OSError, match="No space left"):
        second.save(target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_and_folders_are_synchronized_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    kinds = {True: "folder", False: "file"}

    def observed_fsync(handle: int) -> None:
        events.append(kinds[os.path.isdir(f"/proc/self/fd/{handle}")])  # noqa: PTH112
        fsync(handle)

    monkeypatch.setattr(os, "fsync", observed_fsync)

    def observed_replace(self: Path, to: Path) -> Path:
        events.append("rename")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", observed_replace)
    replace_whole(tmp_path / "a.txt", lambda path: path.write_text("a"))
    assert events == ["file", "rename", "folder"]


def test_temporary_files_of_a_killed_run_are_removed_and_no_others(sweep: Sweep, tmp_path: Path) -> None:
    path = run(sweep, tmp_path / "out").paths[0]
    stale = [path.parent / f".{path.stem}-{name}" for name in ("abc_1234.mkv", "01234567.json")]
    others = [path.parent / name for name in (f".{path.stem}-notes.mkv", "notes.txt", f".{path.stem}-abc_1234.txt")]
    for each in (*stale, *others):
        each.write_text("")
    assert temporaries(path) == stale[:1]
    run(sweep, tmp_path / "out")
    assert [each.exists() for each in stale] == [False, False]
    assert all(each.exists() for each in others)


def test_clips_that_fail_are_listed_with_exit_code_2_and_made_by_the_next_run(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(prompt: str, **settings: Any) -> Clip:
        if prompt == "a small square" and settings["seed"] == 1:
            raise FloatingPointError("frames: 3% of the values are NaN")
        return fake_generate(prompt, **settings)

    monkeypatch.setattr(sweep_run, "generate", fail_once)
    arguments = ["sweep", str(tmp_path / "sweep.yaml"), "-o", str(tmp_path / "out"), "--no-score"]
    done = CliRunner().invoke(app, arguments)
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert (done.exit_code, len(failed)) == (2, 2), done.output
    assert "nag/0001-a-small-square-1.mkv: FloatingPointError: frames: 3% of the values are NaN" in failed[1]
    assert "6 of 8 clips are in" in done.stdout
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert (done.exit_code, len(json.loads(done.stdout)["failed"])) == (2, 2)
    monkeypatch.setattr(sweep_run, "generate", fake_generate)
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, "8 of 8 clips are in" in done.stdout) == (0, True)


def test_a_disk_that_is_full_ends_the_sweep_with_every_file_whole(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, count = Clip._encode, iter(range(100))

    def fill(self: Clip, path: Path, *arguments: Any) -> None:
        encode(self, path, *arguments)
        if next(count) == 3:
            path.write_bytes(path.read_bytes()[:50])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Clip, "_encode", fill)
    done = CliRunner().invoke(app, ["sweep", str(tmp_path / "sweep.yaml"), "-o", str(tmp_path / "out"), "--no-score"])
    assert (done.exit_code, "No space left" in done.stderr) == (2, True)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 6  # three clips, and no temporary file or lease
    result = run(sweep, tmp_path / "out")
    assert (result.remade, result.failed) == ({}, {})
    assert len(hashes(tmp_path / "out")) == 8


def sleeping() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def write_lease(path: Path, pid: int, host: str | None = None, age: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        created = 0.0
    content = {"host": host or platform.node(), "pid": pid, "created": created, "started": "today"}
    path.write_text(json.dumps(content))
    os.utime(path, (time.time() - age,) * 2)


def test_a_second_sweep_on_a_folder_names_the_holder(sweep: Sweep, tmp_path: Path) -> None:
    process = sleeping()
    try:
        write_lease(tmp_path / "out" / "sweep.lock", process.pid, age=1e6)  # alive: its age does not matter
        message = f"out is in use by process {process.pid} on {platform.node()} since today, seen .* ago; wait for it"
        with pytest.raises(ValueError, match=message):
            run(sweep, tmp_path / "out")
        done = CliRunner().invoke(app, ["sweep", str(tmp_path / "sweep.yaml"), "-o", str(tmp_path / "out")])
        assert (done.exit_code, f"process {process.pid} on" in done.stderr) == (2, True)
        assert not list((tmp_path / "out").rglob("*.mkv"))
    finally:
        process.kill()
        process.wait()
    assert len(run(sweep, tmp_path / "out").paths) == 8  # the holder is dead
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clips"}


def test_a_lease_of_another_host_is_stale_when_its_holder_no_longer_touches_it(tmp_path: Path) -> None:
    path = tmp_path / "sweep.lock"
    write_lease(path, 1, "another host", age=leases.STALE - 30)
    with pytest.raises(HeldError, match="process 1 on another host"), lease(tmp_path):
        pass
    write_lease(path, 1, "another host", age=leases.STALE + 30)
    with lease(tmp_path) as held:
        assert leases.holder_of(path) == held.holder
    assert not list(tmp_path.iterdir())


def test_the_number_of_a_dead_process_may_belong_to_another_one(tmp_path: Path) -> None:
    write_lease(tmp_path / "sweep.lock", os.getpid())
    content = json.loads((tmp_path / "sweep.lock").read_text())
    (tmp_path / "sweep.lock").write_text(json.dumps({**content, "created": content["created"] - 100}))
    with lease(tmp_path):
        pass


def test_of_many_runs_at_once_exactly_one_holds_a_folder_with_a_stale_lease(tmp_path: Path) -> None:
    process = sleeping()
    process.kill()
    process.wait()
    for _ in range(10):
        write_lease(tmp_path / "sweep.lock", process.pid)
        barrier, held, ended = threading.Barrier(8), [], threading.Event()

        def contend() -> None:
            barrier.wait()  # noqa: B023
            try:
                with lease(tmp_path):
                    held.append(threading.get_ident())  # noqa: B023
                    ended.wait(2)  # noqa: B023
            except HeldError:
                pass

        threads = [threading.Thread(target=contend) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        ended.set()
        for thread in threads:
            thread.join()
        assert len(held) == 1


def test_a_run_whose_lease_was_taken_over_ends_before_it_writes(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_lease(prompt: str, **settings: Any) -> Clip:
        write_lease(tmp_path / "out" / "sweep.lock", 1, "another host")
        return fake_generate(prompt, **settings)

    monkeypatch.setattr(sweep_run, "generate", lose_lease)
    with pytest.raises(HeldError, match="taken over by another run"):
        run(sweep, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.mkv"))
    assert (tmp_path / "out" / "sweep.lock").exists()  # of the other run


def test_a_worker_that_does_not_see_the_folder_is_refused(tmp_path: Path) -> None:
    with lease(tmp_path) as held:
        held.check()
        path = tmp_path / "sweep.lock"
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(HeldError, match="all machines of a run must share the folder"):
            held.check()
        (tmp_path / "elsewhere").rename(path)


def test_all_variants_of_a_prompt_and_seed_are_generated_on_one_type_of_device(sweep: Sweep, tmp_path: Path) -> None:
    paths = run(sweep, tmp_path / "out").paths
    for path in paths[::2]:  # the first variant of each pair
        json_path = path.with_suffix(".json")
        kind = "another GPU" if path == paths[0] else device_name(torch.device("cpu"))
        json_path.write_text(json.dumps({**json.loads(json_path.read_text()), "device_name": kind}))
    for path in paths[1::2]:
        path.unlink()
        path.with_suffix(".json").unlink()
    result = run(sweep, tmp_path / "out")
    assert set(result.made) == set(paths[3::2])
    assert list(result.failed) == [paths[1]]
    assert "its group was begun on another GPU, which no worker has" in result.failed[paths[1]]


def test_jobs_for_other_working_directories_have_absolute_paths(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = jobs(dataclasses.replace(sweep, prompts=[dataclasses.replace(sweep.prompts[0], image="a.png")]), Path("out"))[
        0
    ]
    sent = job.absolute()
    assert (sent.path, sent.prompt.image) == (tmp_path / job.path, str(tmp_path / "a.png"))
    assert sent.request == job.request
    (tmp_path / "model").mkdir()
    assert sweep_run.absolute_model("model") == str(tmp_path / "model")
    assert sweep_run.absolute_model("tiny-4step") == "tiny-4step"


def test_the_lease_is_touched_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.02)
    with lease(tmp_path):
        os.utime(tmp_path / "sweep.lock", (0, 0))
        for _ in range(100):
            time.sleep(0.02)
            if (tmp_path / "sweep.lock").stat().st_mtime > 0:
                break
        assert leases.age_of(tmp_path / "sweep.lock") < 60
