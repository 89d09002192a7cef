"""The page in Chromium, used as a person would use it. Run by `make test-web`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs vidguide[web]")
pytest.importorskip("playwright", reason="needs playwright")

from tests.helpers.web_page import HOSTILE, assert_unchanged, browsing, make_sweep_folder, serving, state_of, visit
from vidguide import Setup
from vidguide.pipelines.web.limits import Limits
from vidguide.pipelines.web.server import Server

pytestmark = [
    pytest.mark.web,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # Gradio calls deprecated names of other packages, in threads of its own
]
TIMES = "(selector) => [...document.querySelectorAll(selector + ' video')].map((video) => video.currentTime)"
APART = 0.03  # seconds, at most, between two clips that play in sync
WAIT = 120_000  # milliseconds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = make_sweep_folder(tmp_path_factory.mktemp("sweep"))
    return Server(folder=folder, limits=Limits(steps=60, frames=33, size=128), placement={"device": "cpu"})


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[str]:
    with serving(server) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    visited = visit(browser, address)
    yield visited.page
    hacked = visited.page.evaluate("window.hacked")
    visited.page.close()
    assert hacked is None
    assert visited.problems == []


def screenshot(page: Any, name: str) -> None:
    """Write a picture of the page, where the variable says to."""
    if folder := os.environ.get("VIDGUIDE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def generate(page: Any, status: str = "done") -> None:
    page.click("#vg-run")
    page.locator("#vg-status", has_text=status).wait_for(timeout=WAIT)


def fill(page: Any, field: str, value: str) -> None:
    page.locator(f"#vg-{field}").locator("textarea, input").first.fill(value)


def open_settings(page: Any) -> None:
    page.get_by_role("button", name="settings", exact=False).first.click()


def check_sync(page: Any, selector: str) -> None:
    """Check for two seconds that the clips play, and play in sync."""
    seen = []
    for _ in range(20):
        times = page.evaluate(TIMES, selector)
        assert len(times) > 1
        assert max(times) - min(times) < APART, times
        seen.append(times[0])
        page.wait_for_timeout(100)
    assert len(set(seen)) > 10


def fetch_json(page: Any, number: int = 0) -> Any:
    link = page.locator("#vg-results a", has_text="JSON").nth(number)
    return page.request.get(page.url.rstrip("/") + "/" + link.get_attribute("href")).json()


def test_generate_play_in_sync_step_and_restore(page: Any, tmp_path: Path) -> None:
    fill(page, "seed", "5")
    generate(page)
    page.wait_for_timeout(2500)
    check_sync(page, "#vg-results")
    page.locator("#vg-results [data-do=play]").click()
    page.wait_for_timeout(300)
    before = page.locator("#vg-results output").inner_text()
    page.locator("#vg-results [data-do=forward]").click()
    page.wait_for_timeout(500)
    assert page.locator("#vg-results output").inner_text() != before
    times = page.evaluate(TIMES, "#vg-results")
    assert max(times) - min(times) < 0.001
    page.locator("#vg-results .vg-players").press("ArrowLeft")
    page.wait_for_timeout(500)
    assert page.locator("#vg-results output").inner_text() == before
    assert page.locator("#vg-results").get_by_text("the oracle read").count() == 2
    details = page.locator("#vg-results .vg-details > section").nth(1)
    details.get_by_text("Trace: steps by layers").click()
    assert details.locator("img.vg-trace").evaluate("image => image.naturalWidth") > 100
    details.locator("summary", has_text="Python").click()
    assert "NAG(tau=1.25, alpha=0.5)" in details.locator("pre").first.inner_text()
    recorded = fetch_json(page, 1)
    (tmp_path / "clip.json").write_text(json.dumps(recorded))
    screenshot(page, "try-1280")
    fill(page, "seed", "6")
    fill(page, "prompt", "a small square")
    page.get_by_role("button", name="remove NAG").click()
    page.locator("#vg-drop input[type=file]").set_input_files(tmp_path / "clip.json")
    page.locator("#vg-status", has_text="restored").wait_for(timeout=WAIT)
    assert page.locator("#vg-seed input").input_value() == "5"
    assert page.locator("#vg-prompt textarea").input_value() == recorded["prompt"]
    assert page.locator("#vg-editor section.vg-card").count() == 1
    generate(page)
    page.wait_for_function("document.querySelectorAll('#vg-results video').length === 1")
    assert fetch_json(page)["sha256"] == recorded["sha256"]


def test_sliders_and_variants_reach_the_clip(page: Any) -> None:
    page.get_by_role("button", name="add variant").click()
    card = page.locator("#vg-editor section.vg-card").nth(2)
    slider = card.locator("[data-parameter=alpha] input[type=range]")
    slider.fill("0.75")
    assert card.locator("[data-parameter=alpha] input[type=text]").input_value() == "0.75"
    card.locator("[data-parameter=norm] select").select_option("clip")
    card.get_by_label("add guidance to variant 3").select_option("emag")
    card.locator("[data-guidance=emag] [data-parameter=scale] input[type=text]").fill("2")
    page.get_by_label("same noise in all variants").uncheck()
    page.locator("#vg-editor input[name=seed]").nth(2).fill("9")
    generate(page)
    page.wait_for_function("document.querySelectorAll('#vg-results video').length === 3")
    recorded = fetch_json(page, 2)
    nag, emag = recorded["guidance"]
    assert (nag["alpha"], nag["tau"], nag["norm"], emag["scale"]) == (0.75, 1.25, "clip", 2.0)
    assert [fetch_json(page, number)["seed"] for number in range(3)] == [0, 0, 9]


def test_a_cancelled_request_leaves_the_pipeline_as_it_was(page: Any, server: Server) -> None:
    generate(page)
    first = fetch_json(page, 1)["sha256"]
    with server.pipeline("tiny-4step", Setup()) as pipe:
        before = state_of(pipe)
    open_settings(page)
    fill(page, "steps", "60")
    fill(page, "frames", "33")
    generate(page, "of 60")
    page.click("#vg-cancel")
    page.locator("#vg-status", has_text="cancelled").wait_for(timeout=WAIT)
    with server.pipeline("tiny-4step", Setup()) as pipe:  # waits until the request has ended
        assert_unchanged(before, state_of(pipe))
    fill(page, "steps", "")
    fill(page, "frames", "")
    generate(page)
    page.wait_for_function("document.querySelectorAll('#vg-results video').length === 2")
    assert fetch_json(page, 1)["sha256"] == first


def test_errors_are_shown_as_they_are(page: Any) -> None:
    open_settings(page)
    fill(page, "width", "24")
    page.click("#vg-run")
    message = "width=24: must be a multiple of 16 for this model; the nearest is"
    page.locator("#vg-status", has_text=f"failed: {message}").wait_for(timeout=WAIT)
    assert message in page.locator("[data-testid=toast-body], .toast-body").inner_text()
    assert page.locator("#vg-status .error").is_hidden()  # Gradio's badge, which would lie on the text
    fill(page, "width", "4096")
    page.click("#vg-run")
    page.locator("#vg-status", has_text="failed: width=4096: must be at most 128 on this server").wait_for(timeout=WAIT)


def test_html_in_prompts_is_inert(page: Any) -> None:
    fill(page, "prompt", HOSTILE)
    fill(page, "negative", HOSTILE)
    generate(page)
    page.wait_for_timeout(1000)
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert HOSTILE in page.locator("#vg-results pre").first.text_content()
    fill(page, "prompt", HOSTILE + "x " * 700)
    page.click("#vg-run")
    toast = page.locator("[data-testid=toast-body], .toast-body").filter(has_text="must be at most")
    toast.wait_for(timeout=WAIT)
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert '<img src=x onerror="window.hacked=1">' in toast.inner_text()


def values(page: Any, column: int) -> list[float]:
    """Return the shown values of one variant, row by row."""
    notes = page.locator(f"#vg-gallery .vg-players figure:nth-child({column}) .vg-note").all_inner_texts()
    return [float(note.split()[0]) for note in notes]


def choose(page: Any, field: str, option: str) -> None:
    page.locator(f"#vg-{field} input").click()
    page.get_by_role("option", name=option, exact=True).click()
    page.wait_for_timeout(2500)


def test_browse_sort_play_and_grid(page: Any) -> None:
    page.get_by_role("tab", name="Browse").click()
    page.wait_for_selector("#vg-gallery video", timeout=WAIT)
    choose(page, "metric", "guard.motion")
    choose(page, "order", "value")
    ascending = values(page, 5)
    assert ascending == sorted(ascending)
    assert len(set(ascending)) == 3
    choose(page, "direction", "largest first")
    assert values(page, 5) == ascending[::-1]
    choose(page, "order", "paired difference")
    notes = page.locator("#vg-gallery .vg-players figure:nth-child(5) .vg-note").all_inner_texts()
    differences = [float(note.split("(")[1].split(")")[0]) for note in notes]
    assert differences == sorted(differences, reverse=True)
    row = page.locator("#vg-gallery .vg-players").first
    assert "worst frame" in row.locator("h3").inner_text()
    worst = int(row.locator("h3").inner_text().split("worst frame ")[1].split()[0])
    assert row.locator("output").inner_text() == f"frame {worst} of 13"
    row.locator("[data-do=play]").click()
    page.wait_for_timeout(2000)
    check_sync(page, "#vg-gallery .vg-players:first-child")
    link = row.locator("a", has_text="JSON").first.get_attribute("href")
    assert "guidance" in page.request.get(page.url.rstrip("/") + "/" + link).json()
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert page.locator("#vg-gallery h3", has_text="<script>").count() == 1
    screenshot(page, "browse-1280")
    page.get_by_text("Grid of two parameters").click()
    page.click("#vg-show-grid")
    page.wait_for_selector("#vg-table video", timeout=WAIT)
    labels = page.locator("#vg-table figcaption").all_inner_texts()
    assert labels == [f"NAG.tau {tau}, NAG.alpha {alpha}" for alpha in (0.25, 0.5) for tau in (1.25, 2.5)]


@pytest.mark.parametrize("tab", ["Try", "Browse"])
def test_nothing_is_cut_off_on_a_phone(browser: Any, address: str, tab: str) -> None:
    visited = visit(browser, address, width=390)
    page = visited.page
    page.get_by_role("tab", name=tab).click()
    if tab == "Try":
        generate(page)
    selector = "#vg-results" if tab == "Try" else "#vg-gallery"
    page.wait_for_selector(f"{selector} video", timeout=WAIT)
    page.wait_for_timeout(1500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    right = (
        f"Math.max(...[...document.querySelectorAll('{selector} *')].map((one) => one.getBoundingClientRect().right))"
    )
    assert page.evaluate(right) <= 390
    screenshot(page, f"{tab.lower()}-390")
    page.close()
    assert visited.problems == []


def test_a_second_visitor_sees_its_position(browser: Any, address: str) -> None:
    visits = [visit(browser, address) for _ in range(3)]
    for each in visits[:2]:
        open_settings(each.page)
        fill(each.page, "steps", "60")
        fill(each.page, "frames", "33")
    visits[0].page.click("#vg-run")
    visits[0].page.locator("#vg-status", has_text="of 60").wait_for(timeout=WAIT)
    for each in visits[1:]:
        each.page.click("#vg-run")
    visits[2].page.locator("#vg-status").get_by_text("queue: 2/2").wait_for(timeout=WAIT)
    visits[0].page.close()  # leaves while its request runs
    visits[1].page.click("#vg-cancel")
    visits[2].page.locator("#vg-status", has_text="done").wait_for(timeout=WAIT)
    for each in visits[1:]:
        each.page.close()
    assert [problem for each in visits for problem in each.problems] == []
