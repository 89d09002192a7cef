"""The tab *Try*: clips of one prompt with up to four variants of guidance, in sync."""

import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from vidguide.eval.files import parse_json
from vidguide.pipelines.models.presets import MODELS
from vidguide.pipelines.request.call_settings import default_nag
from vidguide.pipelines.request.guidance_spec import guidance_class
from vidguide.pipelines.web.components import message_of, plain_html, shown_errors
from vidguide.pipelines.web.parameters import all_parameters
from vidguide.pipelines.web.players import PAGES
from vidguide.pipelines.web.request import MAX_VARIANTS, read_provenance, read_request, write_guidance
from vidguide.pipelines.web.results import Result, make_result, progress_text, results_html, status_html
from vidguide.pipelines.web.sampling import CancelledError, Progress, sample_variants
from vidguide.pipelines.web.server import Server
from vidguide.pipelines.web.space import on_gpu

NUMBERS = ("steps", "frames", "width", "height", "guidance_scale")  # settings with a field
MAIN = 4  # parameters that are shown at once
COLLECT = "(editor, ...others) => [window.vidguide.editorState(), ...others]"
EXAMPLE = {"prompt": "a large circle moving right on a white background", "negative_prompt": "red"}

Values = dict[str, Any]


def try_tab(server: Server) -> None:
    """Add the content of the tab."""
    with gr.Row():
        prompt = gr.Textbox(EXAMPLE["prompt"], label="prompt", elem_id="vg-prompt", lines=2, scale=3)
        negative = gr.Textbox(
            EXAMPLE["negative_prompt"], label="negative prompt", elem_id="vg-negative", lines=2, scale=2
        )
    with gr.Row():
        model = gr.Dropdown(
            list(server.models), value=server.models[0], label="model", elem_id="vg-model", min_width=140
        )
        seed = gr.Number(0, label="seed", precision=0, minimum=0, elem_id="vg-seed", min_width=90)
    with gr.Accordion("settings", open=False), gr.Row():
        numbers = [
            gr.Textbox("", label=name, placeholder="the model's", elem_id=f"vg-{name}", min_width=90)
            for name in NUMBERS
        ]
    editor = plain_html(editor_html(server, default_variants(server)), "vg-editor-box")
    with gr.Row():
        run = gr.Button("generate", variant="primary", elem_id="vg-run", min_width=120)
        stop = gr.Button("cancel", elem_id="vg-cancel", min_width=90)
        dropped = gr.File(label="drop a clip's JSON to restore", file_types=[".json"], elem_id="vg-drop", height=140)
    status = plain_html(status_html(""), "vg-status")
    results = plain_html("", "vg-results")
    collected = gr.Textbox(visible=False)
    setup, further = gr.State(server.setup.values()), gr.State({})
    fields = [model, prompt, negative, seed, *numbers]
    jobs = Jobs()

    def generate(request: gr.Request, text: str, base: Values, more: Values, *values: Any) -> Iterator[Any]:
        try:
            with shown_errors():
                parsed = read_request(gather(text, base, more, values), server)
                yield from show(server, parsed, jobs.start(request.session_hash))
        except gr.Error as error:
            yield status_html(f"failed: {message_of(error)}"), gr.skip()
            raise

    def restore(path: str | None) -> list[Any]:
        if path is None:
            return [gr.skip()] * (len(fields) + 4)
        with shown_errors():
            restored = read_provenance(Path(path).read_text(encoding="utf-8"), server)
        settings = restored["settings"]
        rest = {name: value for name, value in settings.items() if name not in NUMBERS}
        variants = {name: restored[name] for name in ("same_noise", "variants")}
        values = [restored["model"], restored["prompt"], restored["negative_prompt"] or "", restored["seed"]]
        values += [str(settings.get(name, "")) for name in NUMBERS]
        return [editor_html(server, variants), restored["setup"], rest, *values, status_html("restored")]

    def cancel(request: gr.Request) -> str:
        jobs.cancel(request.session_hash)
        return status_html("cancelled")

    def leave(request: gr.Request) -> None:
        jobs.cancel(request.session_hash)

    started = run.click(
        on_gpu(generate),
        [collected, setup, further, *fields],
        [status, results],
        js=COLLECT,
        concurrency_id="model",
        show_progress_on=[status],
        api_name="generate",
    )
    stop.click(cancel, None, [status], cancels=[started], queue=False, api_name="cancel")
    dropped.upload(restore, [dropped], [editor, setup, further, *fields, status], api_name="restore")
    gr.context.Context.root_block.unload(leave)


class Jobs:
    """The running request of each visitor, to cancel it."""

    def __init__(self) -> None:
        self._events: dict[str | None, threading.Event] = {}

    def start(self, session: str | None) -> threading.Event:
        """Return the event that cancels a new request of a visitor."""
        self._events = {key: event for key, event in self._events.items() if not event.is_set()}
        event = self._events[session] = threading.Event()
        return event

    def cancel(self, session: str | None) -> None:
        """Cancel the request of a visitor, if there is one."""
        if event := self._events.pop(session, None):
            event.set()


def show(server: Server, request: Any, cancelled: threading.Event) -> Iterator[tuple[str, Any]]:
    """Yield status and results of a request."""
    count, done = len(request.variants), dict[int, Result]()
    yield status_html("waits for the model"), ""
    try:
        for message in sample_variants(server, request, cancelled):
            if isinstance(message, Progress):
                yield status_html(progress_text(message, count), message, count), gr.skip()
            else:
                done[message.variant] = make_result(server.files, request, message)
                yield gr.skip(), results_html(done)
    except CancelledError:
        yield status_html("cancelled"), gr.skip()
        return
    yield status_html("done"), results_html(done)


def gather(text: str, setup: dict[str, Any], further: dict[str, Any], values: tuple[Any, ...]) -> dict[str, Any]:
    """Return the fields of a request from the values of the components.

    Args:
        text: JSON of the editor.
        setup: values of the setup.
        further: settings without a field.
        values: model, prompt, negative prompt, seed and `NUMBERS`.
    """
    model, prompt, negative, seed, *numbers = values
    settings = {**further, **{name: to_number(name, text) for name, text in zip(NUMBERS, numbers, strict=True)}}
    variants = parse_json(text, "variants")
    if not isinstance(variants, dict):
        raise TypeError("variants: must be an object with same_noise and variants")
    common = {"model": model, "prompt": prompt, "negative_prompt": (negative or "").strip() or None}
    return {**variants, **common, "seed": seed, "settings": settings, "setup": setup}


def to_number(name: str, text: str | None) -> int | float | None:
    """Return the number in a field; None where it is empty.

    Raises:
        ValueError: it is no number, or no whole number where one is needed.
    """
    if not (text or "").strip():
        return None
    kind = float if name == "guidance_scale" else int
    try:
        return kind(text or "")
    except ValueError:
        raise ValueError(f"{name}={text!r}: must be {'a number' if kind is float else 'a whole number'}") from None


def default_variants(server: Server) -> dict[str, Any]:
    """Return the variants that the page begins with: no guidance, and NAG with the parameters of the model."""
    declared = MODELS.get(server.models[0])
    nag = [] if declared is None else [write_guidance(default_nag(declared, has_image=False))]
    return {"same_noise": True, "variants": [{"seed": 0, "guidances": []}, {"seed": 0, "guidances": nag}]}


def editor_html(server: Server, variants: dict[str, Any]) -> str:
    """Return the editor of the variants, which static/editor.js draws."""
    schema = {"max_variants": MAX_VARIANTS, "guidances": guidance_schema()}
    texts = {"version": secrets.token_hex(8), "schema": json.dumps(schema), "state": json.dumps(variants)}
    return PAGES.get_template("editor.html").render(texts)


def guidance_schema() -> dict[str, Any]:
    """Return title and controls of every guidance; the first controls are shown at once."""
    return {
        name: {
            "title": guidance_class(name).__name__,
            "parameters": [{**asdict(one), "main": number < MAIN} for number, one in enumerate(controls)],
        }
        for name, controls in all_parameters().items()
    }
