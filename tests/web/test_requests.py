"""Requests to the page: controls from the dataclasses, code that makes the same clip, restoring, and limits."""

import dataclasses
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.web_page import NAG_FIELDS, assert_unchanged, state_of
from vidguide import EMAG, NAG, SEG, Setup, generate
from vidguide.guidances.base import Guidance, constraints
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.models.presets import MODELS
from vidguide.pipelines.request.guidance_spec import GUIDANCES, guidance_class, parse, spec_of
from vidguide.pipelines.web.code_text import command_text, python_text
from vidguide.pipelines.web.limits import Limits
from vidguide.pipelines.web.parameters import Parameter, all_parameters, parameters, round_up
from vidguide.pipelines.web.public_files import PublicFiles
from vidguide.pipelines.web.request import TryRequest, read_guidance, read_provenance, read_request, write_guidance
from vidguide.pipelines.web.sampling import CancelledError, Finished, Progress, sample_variants
from vidguide.pipelines.web.server import Server
from vidguide.validation import Range

PROMPT, STEPS, FRAMES = "a large circle moving right", 2, 5


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(models=("tiny-4step",), limits=Limits(steps=8, frames=13, size=64), placement={"device": "cpu"})
    yield server
    server.files.close()


def fields(**changes: Any) -> dict[str, Any]:
    """Return the fields of a small request."""
    variant = {"seed": 3, "guidances": [NAG_FIELDS]}
    common = dict(model="tiny-4step", prompt=PROMPT, negative_prompt="red", seed=3, same_noise=True)
    return {**common, "settings": dict(steps=STEPS, frames=FRAMES), "variants": [variant], **changes}


def clips(server: Server, request: TryRequest) -> list[Finished]:
    messages = sample_variants(server, request, threading.Event())
    return [message for message in messages if isinstance(message, Finished)]


@pytest.mark.parametrize("name", GUIDANCES)
def test_the_controls_of_a_guidance_are_the_fields_of_its_dataclass(name: str) -> None:
    guidance = guidance_class(name)
    controls = {control.name: control for control in parameters(guidance)}
    assert controls.keys() <= {field.name for field in dataclasses.fields(guidance)}
    for field in dataclasses.fields(guidance):
        if field.name in controls and field.name != "negative_prompt":
            values = {field.name: controls[field.name].default}
            made = read_guidance({"name": name, "values": values})
            assert getattr(made, field.name) == field.default, field.name
    assert all(control.about for control in controls.values())


def ranges() -> list[tuple[str, Parameter]]:
    """Return the controls with a slider, by name of the guidance."""
    return [(name, each) for name, controls in all_parameters().items() for each in controls if each.step is not None]


@pytest.mark.parametrize(("name", "control"), ranges(), ids=lambda value: getattr(value, "name", value))
def test_a_slider_ends_where_the_guidance_refuses_values(name: str, control: Parameter) -> None:
    guidance = guidance_class(name)
    allowed = next(each for each in constraints(guidance)[control.name][1] if isinstance(each, Range))
    assert control.low is not None
    assert control.high is not None
    assert control.low <= float(control.default) <= control.high
    assert control.low == allowed.low or not math.isfinite(allowed.low)
    assert control.high == allowed.high or (not math.isfinite(allowed.high) and control.high > float(control.default))
    whole = constraints(guidance)[control.name][0] is int
    for end, outward in ((allowed.low, -1), (allowed.high, 1)):
        if math.isfinite(end):
            outside = str(int(end) + outward) if whole else str(end + 0.01 * outward)
            with pytest.raises(ValueError, match=rf"{guidance.__name__}\({control.name}=.*\): must be"):
                read_guidance({"name": name, "values": {control.name: outside}})


def test_a_guidance_of_others_gets_controls_too() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
    class Other(Guidance):
        """Another one.

        Attributes:
            force: how much,
                in some unit.
        """

        force: float = 0.5
        number: int = 3

    controls = {each.name: each for each in parameters(Other)}
    assert controls["force"].about.startswith("how much, in some unit.")
    assert controls["force"].kind == controls["number"].kind == "text"  # nothing says which range they have
    assert controls["start"].high == 1


@pytest.mark.parametrize(("value", "expected"), [(33, 50), (0.0049, 0.005), (7.5, 10), (1, 1), (0.02, 0.02), (20, 20)])
def test_round_up(value: float, expected: float) -> None:
    assert round_up(value) == expected


@pytest.mark.parametrize(
    "guidances",
    [
        (),
        (NAG(tau=1.25, alpha=0.5, norm="frame"), EMAG(decay="auto", select=(1, 2), layers=(0, 1, 2), start=0.1)),
        (SEG(sigma=None, scale=(3.0, 2.0), over_frames=True),),
    ],
)
def test_a_spec_is_the_inverse_of_parse(guidances: tuple[Guidance, ...]) -> None:
    assert [each.describe() for each in parse(spec_of(guidances))] == [each.describe() for each in guidances]
    again = [read_guidance(write_guidance(each)) for each in guidances]
    assert [each.describe() for each in again] == [each.describe() for each in guidances]


def test_what_a_spec_cannot_express_is_refused() -> None:
    with pytest.raises(ValueError, match=r"EMAG\(scale=<function.*: a spec cannot express it"):
        spec_of([EMAG(scale=lambda progress: 2.0)])
    with pytest.raises(ValueError, match=r"SEG\(scale=\(3.0,\)\): a spec cannot express it"):
        spec_of([SEG(scale=(3.0,))])


def test_python_command_and_json_make_the_same_clip(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    request = read_request(fields(), server)
    [done] = clips(server, request)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(python_text(request, request.variants[0]), names)
    assert names["clip"].sha256 == done.clip.sha256
    app(shlex.split(command_text(request, request.variants[0]))[1:], standalone_mode=False)
    assert json.loads(Path("clip.json").read_text())["sha256"] == done.clip.sha256
    restored = read_request(read_provenance(Path("clip.json").read_text(), server), server)
    assert [each.clip.sha256 for each in clips(server, restored)] == [done.clip.sha256]
    assert restored.negative_prompt == "red"
    assert restored.settings == request.settings
    assert command_text(restored, restored.variants[0]) == command_text(request, request.variants[0])


@pytest.mark.parametrize("text", ["--output=elsewhere.mp4", "-5 degrees", "--", PROMPT])
def test_a_prompt_that_begins_with_a_dash_is_no_option_of_the_command(server: Server, text: str) -> None:
    import shlex

    import typer

    request = read_request(fields(prompt=text, negative_prompt=text), server)
    words = shlex.split(command_text(request, request.variants[0]))
    command: Any = typer.main.get_command(app)
    values = command.commands["generate"].make_context("generate", words[2:]).params
    assert (values["prompt"], values["negative"], str(values["output"])) == ([text], text, "clip.mp4")


def test_restoring_keeps_setup_guidances_texts_and_seed(server: Server, tmp_path: Path) -> None:
    setup = Setup(shift=2.0, vae_slicing=True)
    guidances = [NAG(tau=1.5, negative_prompt="blue"), EMAG(decay=0.9, layers=(1, 2), select=(1,))]
    small: dict[str, Any] = dict(steps=3, frames=5, seed=11, device="cpu", progress=False)
    clip = generate(PROMPT, model="tiny-4step", negative_prompt="red", guidance=guidances, setup=setup, **small)
    clip.save(tmp_path / "clip.mkv")
    provenance = read_provenance((tmp_path / "clip.json").read_text(), server)
    assert provenance["variants"][0]["guidances"] == [
        {"name": "nag", "values": {"tau": "1.5", "negative_prompt": "blue"}},
        {"name": "emag", "values": {"layers": "1/2", "decay": "0.9", "select": "1"}},
    ]
    request = read_request(provenance, server)
    assert (request.setup, request.prompt, request.negative_prompt) == (setup, PROMPT, "red")
    assert (request.variants[0].seed, request.settings["steps"], request.settings["frames"]) == (11, 3, 5)
    [again] = clips(server, request)
    assert again.clip.sha256 == clip.sha256
    with pytest.raises(ValueError, match=r"NAG\(negative_prompt='blue'\): the command has one negative prompt"):
        command_text(request, request.variants[0])


def recorded(**changes: Any) -> str:
    """Return the JSON of a clip."""
    common = dict(prompt=PROMPT, negative_prompt="red", model="tiny-4step", seed=1, guidance=[{"name": "NAG"}])
    return json.dumps({**common, "setup": {"values": {}, "files": {}}, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be the JSON that was written with a clip"),
        ("{", "the file: "),
        (recorded(model="/etc"), "model='/etc': this server has tiny-4step"),
        (recorded(model="owner/name"), "model='owner/name': this server has tiny-4step"),
        (recorded(image={"path": "/etc/passwd", "sha256": "0"}), "image: the page has no first images"),
        (recorded(setup={"values": {"gguf": "/etc/passwd"}, "files": {}}), "gguf='/etc/passwd': this server"),
        (recorded(setup={"values": {"loras": ["../../a.safetensors"]}, "files": {}}), r"loras=\['../../a.*this server"),
        (recorded(setup={"values": {"gguf": "missing.gguf"}, "files": {}}), "gguf='missing.gguf': this server"),
        (recorded(setup={"values": {"gguf": "~nobody/a"}, "files": {}}), "gguf='~nobody/a': this server"),
        (recorded(setup={"values": {"loras": ["missing"]}, "files": {}}), r"loras=\['missing'\]: this server"),
        (
            recorded(setup={"values": {"scheduler": "WanTransformer3DModel"}, "files": {}}),
            "scheduler='WanTransformer3D",
        ),
        (recorded(setup={"values": {"scheduler": "logging"}, "files": {}}), "scheduler='logging': must be the class"),
        (recorded(max_sequence_length=10**9), "max_sequence_length=1000000000: must be at most 1024 on this server"),
        (recorded(fps=1e9), "fps=1000000000.0: must be at most 240 on this server"),
        (recorded(setup={"values": {"compile": "whole"}, "files": {}}), "compile='whole': this server was started"),
        (recorded(setup={"values": {"attention_backend": "flash_hub"}, "files": {}}), "attention_backend='flash_hub'"),
        (recorded(guidance=[{"name": "Evil"}]), "unknown guidance 'Evil'"),
        (recorded(guidance=[{"name": "NAG", "negative_prompt": ["a", "b"]}]), "the page takes one text"),
        (recorded(frames=1000), "frames=1000: must be at most 13 on this server"),
        (recorded(steps=9), "steps=9: must be at most 8 on this server"),
        (recorded(width=4096), "width=4096: must be at most 64 on this server"),
        (recorded(preset={"values": {"source": "/etc"}, "files": {}}), "preset: that of tiny-4step has changed"),
        (recorded(seed=-1), "seed=-1: must be an integer from 0"),
    ],
)
def test_a_json_cannot_name_what_the_server_was_not_given(server: Server, text: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        read_provenance(text, server)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "../../etc"}, "model='../../etc': this server has"),
        ({"variants": []}, "variants"),
        ({"variants": [{"seed": 0, "guidances": []}] * 5}, "variants"),
        ({"variants": [{"seed": 0, "guidances": [NAG_FIELDS] * 9}]}, "guidances"),
        ({"variants": [{"seed": 0, "guidances": [{"name": "nag", "values": {"scale": "@/etc/passwd"}}]}]}, "a number"),
        ({"variants": [{"seed": 0, "guidances": [{"name": "nag:@/etc/passwd", "values": {}}]}]}, "unknown guidance"),
        ({"variants": [{"seed": 0, "guidances": [{"name": "nag", "values": {"@/etc/passwd": "1"}}]}]}, "unknown param"),
        ({"variants": [{"seed": 0, "guidances": [{"name": "nag", "values": {"tau": "0.5"}}]}]}, "must be at least 1"),
        ({"prompt": " "}, "prompt=' ': must be non-empty text"),
        ({"prompt": "x" * 5000}, "prompt: has 5000 characters; must have at most 4000"),
        ({"settings": {"steps": 100}}, "steps=100: must be at most 8 on this server"),
        ({"settings": {"height": 128}}, "height=128: must be at most 64 on this server"),
        ({"settings": {"steps": "4"}}, "steps"),
        ({"setup": {"gguf": "owner/name/a.gguf"}}, "gguf='owner/name/a.gguf': this server was started with gguf=None"),
        ({"setup": {"quantization": "torchao-int8"}}, "quantization='torchao-int8': this server was started with"),
    ],
)
def test_requests_are_checked_and_bounded(server: Server, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        read_request(fields(**changes), server)


def test_a_request_without_settings_is_bounded_by_what_the_model_declares() -> None:
    server = Server(models=("tiny",), limits=Limits(steps=4))
    with pytest.raises(ValueError, match="steps=20: must be at most 4 on this server"):
        read_request(fields(model="tiny", settings={}), server)
    server.files.close()


def test_a_request_without_settings_is_bounded_by_what_the_pipeline_has() -> None:
    source = MODELS["tiny-4step"].source  # as a model without a declaration
    server = Server(models=(source,), limits=Limits(frames=13), placement={"device": "cpu"})
    request = read_request(fields(model=source, settings={}), server)
    with pytest.raises(ValueError, match="frames=81: must be at most 13 on this server"):
        clips(server, request)
    server.files.close()


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_limits_are_whole_numbers(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"max_frames=.*must be an integer of at least 1"):
        Limits(frames=limit)


def test_a_server_refuses_unknown_models_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model='tinny': unknown"):
        Server(models=("tinny",))
    with pytest.raises(NotADirectoryError, match="folder="):
        Server(folder=tmp_path / "missing")


def test_seeds_of_variants_count_without_the_lock(server: Server) -> None:
    variants: list[dict[str, Any]] = [{"seed": seed, "guidances": []} for seed in (7, 8)]
    unlocked = read_request(fields(same_noise=False, variants=variants), server)
    assert [each.seed for each in unlocked.variants] == [7, 8]
    assert [each.seed for each in read_request(fields(variants=variants), server).variants] == [3, 3]


def test_a_cancelled_or_failed_request_leaves_the_pipeline_bitwise_as_it_was(server: Server) -> None:
    request = read_request(fields(), server)
    expected = clips(server, request)[0].clip.sha256
    with server.pipeline(request.model, request.setup) as pipe:
        before = state_of(pipe)
    cancelled = threading.Event()
    messages = sample_variants(server, request, cancelled)
    assert next(messages) == Progress(0, 0, 0)
    cancelled.set()
    with pytest.raises(CancelledError):
        list(messages)
    messages = sample_variants(server, request, threading.Event())
    assert next(messages) == Progress(0, 0, 0)
    messages.close()  # type: ignore[attr-defined] # a visitor who leaves
    failing = read_request(fields(settings={"width": 24}), server)
    with pytest.raises(ValueError, match="width=24: must be a multiple of 16 for this model; the nearest is"):
        clips(server, failing)
    with server.pipeline(request.model, request.setup) as pipe:
        assert_unchanged(before, state_of(pipe))
    assert clips(server, request)[0].clip.sha256 == expected


def test_progress_counts_the_steps_of_every_variant_and_warnings_are_returned(server: Server) -> None:
    variants: list[dict[str, Any]]
    variants = [{"seed": 0, "guidances": []}, {"seed": 0, "guidances": [{"name": "cfg", "values": {"scale": "2"}}]}]
    messages = list(sample_variants(server, read_request(fields(variants=variants), server), threading.Event()))
    progress = [(one.variant, one.step, one.steps) for one in messages if isinstance(one, Progress)]
    assert progress == [(v, step, STEPS if step else 0) for v in (0, 1) for step in range(STEPS + 1)]
    first, second = [one for one in messages if isinstance(one, Finished)]
    assert any("distilled to run without it" in note for note in second.notes)
    assert not any("distilled" in note for note in first.notes)
    assert (first.trace.steps, second.trace.steps) == (STEPS, STEPS)


def test_one_model_is_loaded_at_a_time_and_loaded_again_for_another_setup() -> None:
    server = Server(models=("tiny-4step", "tiny"), placement={"device": "cpu"})
    with server.pipeline("tiny-4step", Setup()) as first:
        assert server._lock.locked()
    with server.pipeline("tiny-4step", Setup()) as again:
        assert again is first
    with server.pipeline("tiny-4step", Setup(shift=2.0)) as shifted:
        assert shifted is not first
        assert shifted.scheduler.config.shift == 2.0
    server.files.close()


def test_public_files_have_a_largest_size_and_leave_nothing_of_a_failed_or_second_writer() -> None:
    files = PublicFiles(max_bytes=10)
    sizes = (4, 4, 4, 20)
    paths = [files.add("a.txt", lambda path, n=n: path.write_bytes(bytes(n))) for n in sizes]  # type: ignore[misc]
    assert [path.exists() for path in paths] == [False, False, False, True]
    with pytest.raises(OSError, match="full"):
        files.add("b.txt", fail_to_write)
    first = files.add("c.txt", lambda path: files.add("c.txt", lambda other: other.touch(), key="c"), key="c")
    assert first.exists()
    assert {path.parent for path in files.folder.rglob("*.txt")} == set(files.folder.iterdir()) == {first.parent}
    files.close()


def fail_to_write(path: Path) -> None:
    """Write a part of a file."""
    path.write_text("part")
    raise OSError("full")


def test_public_files_are_copies_with_random_names_and_the_oldest_go() -> None:
    files = PublicFiles(limit=2)
    paths = [files.add("a.txt", lambda path, n=n: path.write_text(str(n)), key=n) for n in range(2)]  # type: ignore[misc]
    assert files.add("a.txt", lambda path: path.write_text("never"), key=0) == paths[0]
    assert paths[0].read_text() == "0"
    files.add("a.txt", lambda path: path.write_text("2"), key=2)
    assert [path.exists() for path in paths] == [True, False]  # the first was used after the second
    assert paths[0].parent.parent == files.folder
    assert len(paths[0].parent.name) == 32
    files.close()
    assert not files.folder.exists()


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"same_noise": ' + "9" * 5000 + "}"])
def test_variants_that_are_not_json_are_refused_by_name(text: str) -> None:
    pytest.importorskip("gradio", reason="needs vidguide[web]")
    from vidguide.pipelines.web.try_tab import gather

    with pytest.raises(ValueError, match="variants: not JSON"):
        gather(text, {}, {}, ("tiny-4step", PROMPT, "", 0, *[""] * 5))
