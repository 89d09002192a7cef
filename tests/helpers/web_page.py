"""A served page in this process, and a browser that uses it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.snapshots import snapshot_of, snapshots_equal
from vidguide.eval.files import validate
from vidguide.pipelines.sweep.config import SweepFields, make_sweep
from vidguide.pipelines.sweep.run import evaluate, run
from vidguide.pipelines.web.server import Server

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = '</textarea></section><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
PROMPTS = [
    {"prompt": "a large circle moving right on a white background", "negative_prompt": "red", "id": "circle"},
    {"prompt": "a small square moving up on a black background", "negative_prompt": "yellow", "eval_prompt": HOSTILE},
    {"prompt": "a small blue circle on a grey background", "negative_prompt": "red"},
]
ARMS = {
    "none": "none",
    **{f"tau {tau}, alpha {alpha}": f"nag:tau={tau},alpha={alpha}" for tau in (1.25, 2.5) for alpha in (0.25, 0.5)},
}

NAG_FIELDS = {"name": "nag", "values": {"tau": "1.25", "alpha": "0.5"}}  # of a request


def make_sweep_folder(folder: Path) -> Path:
    """Return a folder with a scored sweep of the shipped four-step model."""
    content = {"model": "tiny-4step", "prompts": PROMPTS, "arms": ARMS, "device": "cpu"}
    sweep = make_sweep(validate(SweepFields, content), folder)
    run(sweep, folder)
    evaluate(sweep, folder)
    return folder


@contextmanager
def serving(server: Server, tabs: Sequence[str] | None = None) -> Iterator[str]:
    """Serve the page of a server in the context, with all tabs by default; yields its address."""
    from vidguide.pipelines.web.app import TABS, build, launch

    page = build(server, tuple(TABS) if tabs is None else tabs)
    _, address, _ = launch(server, page, prevent_thread_lock=True, quiet=True)
    try:
        yield str(address)
    finally:
        page.close()
        server.files.close()


@contextmanager
def browsing() -> Iterator[Any]:
    """Run Debian's Chromium in the context; yields it."""
    if not CHROMIUM.is_file():
        pytest.skip(f"needs {CHROMIUM}, as from `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in the browser, with what must not happen on it.

    Attributes:
        page: Playwright's page.
        problems: errors in its console, failed responses, and requests to others than the server.
    """

    page: Any
    problems: list[str] = field(default_factory=list)


def visit(browser: Any, address: str, width: int = 1280) -> Visit:
    """Open the page."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    visited = Visit(page)

    def request(one: Any) -> None:
        if not one.url.startswith((address, "data:", "blob:")):
            visited.problems.append(f"asks {one.url}")

    page.on("request", request)
    page.on("console", lambda message: visited.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: visited.problems.append(str(error)))
    page.on("response", lambda one: visited.problems.append(f"{one.status} {one.url}") if one.status >= 400 else None)
    page.goto(address)
    page.wait_for_selector("#vg-editor .vg-card")
    return visited


def state_of(pipe: Any) -> dict[str, Any]:
    """Return all of a pipeline that a request could leave behind."""
    modules = {name: snapshot_of(getattr(pipe, name)) for name in ("transformer", "vae", "text_encoder")}
    scheduler = {name: repr(value) for name, value in vars(pipe.scheduler).items()}
    return {"modules": modules, "type": type(pipe), "scheduler": (type(pipe.scheduler), sorted(scheduler))}


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert all(snapshots_equal(before["modules"][name], after["modules"][name]) for name in before["modules"])
    assert [before[name] for name in ("type", "scheduler")] == [after[name] for name in ("type", "scheduler")]
