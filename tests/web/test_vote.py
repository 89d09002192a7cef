"""The tab Vote: what reaches the page, stale and repeated answers, and votes of a person with a keyboard."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.voted_clips import VARIANTS, make_clips, vote_on_all
from tests.helpers.web_page import browsing, serving, visit
from vidguide.eval.preference.poll import Poll
from vidguide.eval.preference.votes import VotesError, read_votes

pytest.importorskip("gradio", reason="needs vidguide[web]")

from vidguide.pipelines.web.public_files import PublicFiles
from vidguide.pipelines.web.server import Server
from vidguide.pipelines.web.vote_tab import (
    PREPARING,
    Ballot,
    next_pair,
    record,
    show_statistics,
    statistics_html,
)

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"
STARTED = "document.querySelector('#vg-vote [data-token]')?.dataset.token"


@pytest.fixture
def files() -> Iterator[PublicFiles]:
    files = PublicFiles()
    yield files
    PREPARING.submit(int).result(timeout=60)
    files.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("clips"), prompts=4, seeds=(0, 1), frames=8)


@pytest.fixture
def poll(clips: Path, tmp_path: Path) -> Poll:
    shutil.copytree(clips, tmp_path / "sweep")
    return Poll(tmp_path / "sweep")


def answer(ballot: Ballot, choice: str = "left", milliseconds: int = 1000) -> str:
    return json.dumps({"token": ballot.token, "choice": choice, "milliseconds": milliseconds})


def test_a_pair_on_the_page_does_not_say_which_variant_is_which(poll: Poll, files: PublicFiles) -> None:
    ballot, html, *_ = next_pair(files, poll, "anna")
    assert ballot.trial is not None
    assert not re.search("|".join([*VARIANTS, "sweep", "mkv", ballot.trial.left.sha256[:8]]), html)
    assert len(set(re.findall(r'src="(gradio_api[^"]+)"', html))) == 2
    assert {path.name for path in files.folder.rglob("*") if path.is_file()} == {"clip.mp4"}  # without their JSON


def test_the_next_pair_is_encoded_while_a_rater_looks(poll: Poll, files: PublicFiles) -> None:
    ballot, *_ = next_pair(files, poll, "anna")
    PREPARING.submit(int).result(timeout=60)  # after those that were submitted before
    before = set(files.folder.iterdir())
    assert len(before) == 4
    ballot, *_ = record(files, poll, answer(ballot), ballot)
    assert ballot.trial is not None
    assert {clip.variant for clip in ballot.trial.clips} <= set(VARIANTS)
    PREPARING.submit(int).result(timeout=60)
    assert before < set(files.folder.iterdir())


def test_votes_are_recorded_and_the_next_pair_follows_until_the_last(poll: Poll, files: PublicFiles) -> None:
    ballot, html, *_ = next_pair(files, poll, "anna")
    for number in range(24):
        assert f"pair {number + 1} of 24" in html
        ballot, html, row, statistics = record(files, poll, answer(ballot), ballot)
        assert ("Agreement of raters" in statistics) == (number == 23)
    assert ballot.trial is None
    assert "All 24 pairs are done. Thank you, anna." in html
    assert row["visible"] is False
    assert len(read_votes(poll.file)) == 24


def test_an_answer_to_another_showing_changes_nothing(poll: Poll, files: PublicFiles) -> None:
    first, *_ = next_pair(files, poll, "anna")
    second, *_ = record(files, poll, answer(first), first)
    record(files, poll, answer(first), second)
    record(files, poll, answer(second), None)
    record(files, poll, json.dumps({"token": "", "choice": "left", "milliseconds": 0}), second)
    assert len(read_votes(poll.file)) == 1


def test_a_rater_with_a_pair_to_compare_gets_no_statistics_that_name_its_variants(
    poll: Poll, files: PublicFiles
) -> None:
    ballot, *_ = next_pair(files, poll, "anna")
    ballot, *_ = record(files, poll, answer(ballot), ballot)
    shown = show_statistics(poll, ballot)
    assert "after the last pair" in shown
    assert not re.search("|".join(VARIANTS), shown)
    assert "100%" in show_statistics(poll, None)
    assert "100%" in show_statistics(poll, Ballot("anna", None, ""))


def test_two_windows_of_a_rater_give_one_vote_to_each_pair(poll: Poll, files: PublicFiles) -> None:
    one, *_ = next_pair(files, poll, "anna")
    two, *_ = next_pair(files, poll, "anna")
    assert one.trial == two.trial
    one, *_ = record(files, poll, answer(one, "left"), one)
    two, html, *_ = record(files, poll, answer(two, "right"), two)
    assert "has your vote already" in html
    assert one.trial == two.trial
    assert [vote.choice for vote in read_votes(poll.file)] == ["left"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"token": "", "choice": "both", "milliseconds": 1}'])
def test_other_answers_are_refused(poll: Poll, files: PublicFiles, text: str) -> None:
    ballot, *_ = next_pair(files, poll, "anna")
    with pytest.raises(VotesError):
        record(files, poll, text, ballot)
    with pytest.raises(VotesError, match="milliseconds=-1"):
        record(files, poll, answer(ballot, milliseconds=-1), ballot)
    assert not poll.file.exists()


def test_a_clip_that_is_made_again_while_people_vote_is_noticed(poll: Poll, files: PublicFiles) -> None:
    before, *_ = next_pair(files, poll, "anna")
    assert before.trial is not None
    other = next(path for path in poll.folder.rglob("*.mkv") if path not in (before.trial.left.path,))
    before.trial.left.path.write_bytes(other.read_bytes())
    after, *_ = next_pair(files, poll, "anna")
    assert after.trial is not None
    for clip in after.trial.clips:
        assert clip.sha256 != before.trial.left.sha256


def test_hostile_names_and_texts_are_inert(tmp_path: Path, files: PublicFiles) -> None:
    folder = make_clips(tmp_path, ["none", "nag"], prompts=1, seeds=(0,))
    for path in folder.rglob("*.json"):
        path.write_text(json.dumps({"prompt": HOSTILE, "prompt_id": HOSTILE, "seed": 0}))
    poll, name = Poll(folder), "</p><script>alert(2)</script>"
    ballot, html, *_ = next_pair(files, poll, name)
    _, done, _, statistics = record(files, poll, answer(ballot), ballot)
    for text in (html, done, statistics):
        assert "<script" not in text
        assert "<img" not in text
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in done
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in statistics
    with pytest.raises(VotesError, match="rater="):
        next_pair(files, poll, "a\nb")
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "votes.jsonl", "votes.jsonl.lock"]


def test_an_edited_file_is_named_with_its_line(poll: Poll, files: PublicFiles) -> None:
    ballot, *_ = next_pair(files, poll, "anna")
    record(files, poll, answer(ballot), ballot)
    poll.file.write_text(poll.file.read_text() + "edited\n")
    for call in (lambda: next_pair(files, poll, "anna"), lambda: statistics_html(poll)):
        with pytest.raises(VotesError, match=r"votes\.jsonl line 2: not JSON"):
            call()


def test_statistics_without_votes_say_so(poll: Poll) -> None:
    assert "There are no votes yet." in statistics_html(poll)


IN_BROWSER = (
    pytest.mark.web,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # Gradio calls deprecated names of other packages, in threads of its own
)


def in_browser(test: Any) -> Any:
    """Mark a test that uses a browser."""
    for mark in IN_BROWSER:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="needs playwright")
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Poll]]:
    """Serve clips, and return the address and the poll; each test has raters of its own."""
    folder = make_clips(tmp_path_factory.mktemp("served"), prompts=4, seeds=(0, 1), frames=8)
    with serving(Server(models=("tiny-4step",), folder=folder)) as address:
        yield address, Poll(folder)


RECORD = """
const fetch = window.fetch;
window.bodies = [];
window.fetch = async (...request) => {
  const reply = await fetch(...request);
  const reader = reply.clone().body?.getReader();
  const read = async () => {
    for (let part = await reader.read(); !part.done; part = await reader.read())
      window.bodies.push(new TextDecoder().decode(part.value));
  };
  if (reader) read().catch(() => {});
  return reply;
};
"""


@in_browser
def test_no_reply_to_a_rater_names_a_variant(browser: Any, tmp_path: Path) -> None:
    folder = make_clips(tmp_path, ["zebra-a", "zebra-b"], prompts=3, seeds=(0,), frames=8)
    with serving(Server(models=("tiny-4step",), folder=folder), ("Vote",)) as address:
        page = browser.new_page()
        page.add_init_script(RECORD)
        whole: list[str] = []
        page.on("response", lambda reply: whole.append(reply.url))
        page.goto(address)
        page.wait_for_selector("#vg-rater")
        begin(page, "anna")
        whole.append(page.content())
        press(page, "1")
        press(page, "s")
        whole.append(page.content())
        bodies = page.evaluate("window.bodies")
        page.close()
    assert sum("vg-players" in body for body in bodies) >= 3
    for text in (*bodies, *whole):
        assert "zebra" not in text
        assert ".mkv" not in text
    assert len(read_votes(folder / "votes.jsonl")) == 2


def begin(page: Any, name: str) -> None:
    """Open the tab and start to vote."""
    page.get_by_role("tab", name="Vote").click()
    page.fill("#vg-rater :is(input, textarea)", name)
    page.click("#vg-vote-start")
    page.wait_for_selector("#vg-vote [data-token] video")


def press(page: Any, key: str) -> None:
    """Vote by a key when both clips can be seen, and wait for the next pair."""
    token = page.evaluate(STARTED)
    page.wait_for_function("[...document.querySelectorAll('#vg-vote video')].every(video => video.readyState >= 2)")
    page.wait_for_timeout(200)
    page.keyboard.press(key)
    page.wait_for_function(f"token => {STARTED} !== token", arg=token, timeout=10_000)


@in_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_votes_on_twenty_pairs_by_keyboard(browser: Any, served: tuple[str, Poll], width: int) -> None:
    (address, poll), rater = served, f"{width}{HOSTILE[:50]}"
    visited, bodies = visit(browser, address, width), list[str]()
    page = visited.page
    begin(page, rater)
    page.on("response", lambda response: bodies.append(response.url))
    page.on("request", lambda request: bodies.append(request.post_data or ""))
    keys = ("1", "2", "0", "s", "1", "2") * 4
    for number, key in enumerate(keys[:10]):
        assert f"pair {number + 1} of 24" in page.inner_text("#vg-vote")
        press(page, key)
    times = page.evaluate("[...document.querySelectorAll('#vg-vote video')].map(video => video.currentTime)")
    assert abs(times[0] - times[1]) < 0.03
    shown = page.content()
    page.reload()
    begin(page, rater)  # continues
    assert "pair 11 of 24" in page.inner_text("#vg-vote")
    for key in keys[10:20]:
        press(page, key)
    for text in (*bodies, page.inner_html("#vg-vote"), re.sub(r"(?s)^.*vg-rater", "", shown)):
        assert not re.search(r"clips/(none|nag|cfg)|\.mkv", text)
    page.click("#vg-vote-show")
    page.locator("#vg-vote-statistics", has_text="after the last pair").wait_for()
    assert page.locator("#vg-vote-statistics table").count() == 0
    page.reload()
    page.get_by_role("tab", name="Vote").click()
    page.click("#vg-vote-show")
    page.wait_for_selector("#vg-vote-statistics li")
    assert page.locator("#vg-vote-statistics table").first.locator("tbody tr").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    votes = [vote for vote in read_votes(poll.file) if vote.rater == rater]
    assert Counter(vote.choice for vote in votes) == {"left": 7, "right": 7, "tie": 3, "skip": 3}
    assert [vote.prompt for vote in votes] == [t.prompt for t in poll.design().trials(rater)[:20]]
    lefts = Counter((*vote.variants, vote.left) for vote in votes)
    for pair in {tuple(vote.variants) for vote in votes}:
        assert abs(lefts[(*pair, pair[0])] - lefts[(*pair, pair[1])]) <= 1
    assert all(0 < vote.milliseconds < 20_000 for vote in votes if vote.choice != "skip")
    assert visited.problems == []
    page.close()


@in_browser
def test_keys_in_a_text_field_are_no_votes(browser: Any, served: tuple[str, Poll]) -> None:
    address, poll = served
    page = visit(browser, address).page
    begin(page, "eva")
    token = page.evaluate(STARTED)
    page.wait_for_timeout(500)
    page.focus("#vg-rater :is(input, textarea)")
    page.keyboard.type("120s")
    page.get_by_role("tab", name="Try").click()
    page.keyboard.press("1")
    page.wait_for_timeout(700)
    assert page.evaluate(STARTED) == token
    assert "eva" not in {vote.rater for vote in poll.votes()}
    page.close()


@in_browser
def test_the_last_pair_shows_the_statistics_of_all_raters(browser: Any, served: tuple[str, Poll]) -> None:
    address, poll = served
    vote_on_all(poll.folder, ["ben", "cem"], {"none": 0.0, "nag": 2.0, "cfg": 1.0})
    for trial in poll.design().trials("anna")[:-1]:
        poll.vote(trial, "anna", "tie", 100)
    page = visit(browser, address).page
    begin(page, "anna")
    page.wait_for_timeout(500)
    page.keyboard.press("0")
    page.wait_for_selector("#vg-vote-statistics li")
    assert "All 24 pairs are done" in page.inner_text("#vg-vote")
    assert not page.is_visible("#vg-vote-left")
    text = page.inner_text("#vg-vote-statistics")
    assert "none against nag" in text
    assert "Krippendorff's alpha" in text
    page.close()
