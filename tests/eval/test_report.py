"""The report: headline, overview, clips and tables, from rows whose values are known."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest

from vidguide.clip import Clip
from vidguide.eval.evaluate import write
from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.report import clip_figures, loops
from vidguide.eval.report.amounts import amount, change, format_needed, join_names
from vidguide.eval.report.charts import Chart, curve_chart, interval_chart
from vidguide.eval.report.clip_figures import ClipCollection, Rows, collect_pairs, find_worst
from vidguide.eval.report.console import show
from vidguide.eval.report.headline import headline
from vidguide.eval.report.html_page import Opening, Player, to_html
from vidguide.eval.report.html_tables import thresholds
from vidguide.eval.report.loops import MAX_BYTES, MAX_FRAMES, Worst, make_loop
from vidguide.eval.report.overview import panels, trade_off
from vidguide.eval.report.pair_selection import choose_pairs
from vidguide.eval.report.tables import change_table
from vidguide.eval.scoring.statistics import Estimate, effect_size, prompts_for_difference
from vidguide.eval.scoring.summary import Summary, number, summarize
from vidguide.eval.scoring.verdict import compare

HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(1)> & {{ 7 * 7 }} [red]x[/]"
ARMS = ("none", f"NAG {HOSTILE}", "CFG")
VOID = ("meta", "img", "br", "li", "html")
PROMPTS, FRAMES = 8, 5


class Page(HTMLParser):
    """HTML parser that collects elements, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, attribute: str) -> list[str]:
        """Return the values of an attribute in all elements."""
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]

    @property
    def text(self) -> str:
        """Return the text of all elements with single spaces."""
        return " ".join(" ".join(self.texts).split())


def make_rows(folder: Path, arm: str, values: dict[str, list[float]], prompts: list[str]) -> list[dict[str, Any]]:
    """Return the rows of one clip per prompt, whose files are noise."""
    rows = []
    for number_, prompt in enumerate(prompts):
        clip = folder / f"{sum(map(ord, arm))}-{number_}.mkv"
        random = np.random.default_rng(number_)
        frames = random.integers(0, 255, (FRAMES, 16, 24, 3)).astype(np.uint8)
        provenance = {"model": HOSTILE, "steps": 4, "prompt": prompt, "seed": 0}
        Clip(frames=frames, fps=8, provenance=provenance).save(clip)
        for metric, each in values.items():
            curve = (each[number_] + np.linspace(0, 0.1, FRAMES - 1)).tolist()
            row = {"schema": 1, "clip": str(clip), "arm": arm, "prompt_id": prompt, "seed": 0, "metric": metric}
            row |= {"value": each[number_], "status": "ok", "reason": None, "version": "1", "weights": ""}
            row |= {"per_frame": curve, "frames": FRAMES, "width": 24, "height": 16, "fps": 8.0}
            rows.append({**row, "clip_sha256": "0", "details": {}, "versions": {"vidguide": HOSTILE}})
    return rows


def draw_values() -> list[dict[str, list[float]]]:
    """Return the values of a reference and of two variants; the first avoids more, the second is worse."""
    random = np.random.default_rng(3)
    reference = {
        "world.attributes": random.uniform(0.9, 1.0, PROMPTS),
        "world.negative_present": random.uniform(0.5, 0.9, PROMPTS),
        "temporal.warp_error": random.uniform(0.01, 0.02, PROMPTS),
        "world.well_formed": np.ones(PROMPTS),
        "world.readable": random.uniform(0.9, 1, PROMPTS),
        "dual.similarity": random.uniform(0.5, 0.6, PROMPTS),
    }
    shifts = {"world.negative_present": -0.45, "world.attributes": -0.1, "dual.similarity": 0.05}
    better = {name: each + shifts.get(name, 0) * random.uniform(0.9, 1.1, PROMPTS) for name, each in reference.items()}
    worse = {**reference, "temporal.warp_error": reference["temporal.warp_error"] + random.uniform(0.01, 0.02, PROMPTS)}
    return [{name: each.tolist() for name, each in arm.items()} for arm in (reference, better, worse)]


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """A summary of three arms, the names and prompts of which are hostile."""
    folder = tmp_path_factory.mktemp("clips")
    prompts = [f"{HOSTILE} {index}" for index in range(PROMPTS)]
    arms = [make_rows(folder, name, arm, prompts) for name, arm in zip(ARMS, draw_values(), strict=True)]
    comparisons = [compare(arms[0], arm, (ARMS[0], name)) for name, arm in zip(ARMS[1:], arms[1:], strict=True)]
    return summarize([row for arm in arms for row in arm], comparisons)


@pytest.fixture(scope="module")
def collection(summary: Summary) -> ClipCollection:
    return collect_pairs(summary)[0]


@pytest.fixture(scope="module")
def page(summary: Summary, collection: ClipCollection) -> str:
    opening = Opening(prompt=HOSTILE, negative_prompt=HOSTILE, players=[Player(source="data:,", caption=HOSTILE)])
    return to_html(summary, opening)


def test_hostile_prompts_and_names_are_inert_and_nothing_is_external(page: str) -> None:
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "iframe", "object", "link", "form", "base", "embed"}
    assert not [name for _, attrs in parsed.elements for name in attrs if name.startswith("on")]
    assert all(value.startswith(("data:", "#")) for name in ("src", "href", "poster") for value in parsed.values(name))
    assert "{{ 7 * 7 }}" in parsed.text  # as text, not as a template
    assert [tag for tag, _ in parsed.elements].count("style") == 1
    policy = next(attrs["content"] for _, attrs in parsed.elements if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_every_link_has_its_target_and_every_mean_and_difference_a_link(page: str, summary: Summary) -> None:
    parsed = Page(page)
    anchors = parsed.values("id")
    assert len(set(anchors)) == len(anchors)
    assert {value.removeprefix("#") for value in parsed.values("href")} <= set(anchors)
    tables = [part.split("</table>")[0] for part in page.split("<table class=")]
    arms = {arm for each in summary.comparisons for arm in (each.reference, each.other)}
    for table in tables:
        cells = re.findall(r'<td data-label="([^"]*)">(.*?)</td>', table)
        for label, cell in cells:
            if label == "difference" or (label in arms and "difference" in dict(cells) and cell):
                assert cell.startswith('<a href="#clip-')
    assert len(re.findall(r'data-label="difference"', page)) == sum(len(each.lines) for each in summary.comparisons)


def test_charts_are_well_formed_svg(page: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(charts) > 20
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root[0].tag == "title"
        width, height = map(float, root.get("viewBox", "").split()[2:])
        for element in root.iter("circle"):
            assert 0 <= float(element.get("cx", -1)) <= width
            assert 0 <= float(element.get("cy", -1)) <= height


def test_numbers_of_the_tables_are_those_of_the_comparisons(page: str, summary: Summary) -> None:
    text = Page(page).text
    for comparison in summary.comparisons:
        for line in comparison.lines:
            difference = line.paired.difference
            assert number(difference.mean) in text
            if difference.low is not None:
                assert f"{number(difference.low)} to {number(difference.high)}" in text
            assert format_needed(line.needed_prompts) in text


def test_headline_states_conclusions_with_both_means_and_the_interval(summary: Summary) -> None:
    first, second = map(headline, summary.comparisons)
    lines = {line.metric: line for line in summary.comparisons[0].lines}
    negative = lines["world.negative_present"]
    difference = negative.paired.difference
    assert difference.low is not None
    assert difference.high is not None
    assert (
        f"NAG {HOSTILE} {100 * (negative.paired.other or 0):.1f}%, none {100 * (negative.paired.reference or 0):.1f}%"
        in first
    )
    interval = f"{100 * (difference.mean or 0):+.1f} points [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    assert f"{interval}, {negative.verdict}" in first
    assert negative.verdict == "confounded: less of what was asked for"
    assert "asked-for attributes: " in first
    assert first.index("unwanted attributes") < first.index("warping error")  # which has no conclusion
    assert second.startswith("CFG against none: warping error: CFG ")
    assert "asked-for attributes (0.0 points" in second


def test_headline_of_arms_that_cannot_be_compared_and_without_primary_metrics(summary: Summary) -> None:
    rows = [row for row in summary.rows if row["arm"] == "none"]
    longer = [{**row, "arm": "other", "frames": 9} for row in rows]
    assert headline(compare(rows, longer, ("none", "other"))).endswith(": not comparable: the clips differ in length.")
    kept = [row for row in rows if row["metric"] == "dual.similarity"]
    assert headline(compare(kept, kept, ("none", "again"))) == (
        "again against none: no primary metric was measured in both."
    )


def test_overview_has_all_variants_on_one_scale(summary: Summary) -> None:
    drawn = panels(summary.comparisons, {})
    assert [panel.metric for panel in drawn] == ["world.attributes", "world.negative_present", "temporal.warp_error"]
    for panel in drawn:
        assert [row.name for row in panel.rows] == [each.other for each in summary.comparisons]
        low, high = re.fullmatch(r"(.*) to (.*)", panel.scale).groups()  # type: ignore[union-attr]
        limit = float(high) / (100 if METRICS[panel.metric].unit.startswith("share") else 1)
        assert float(low) == -float(high)
        for row, comparison in zip(panel.rows, summary.comparisons, strict=True):
            assert isinstance(row.chart, Chart)
            mean = next(line for line in comparison.lines if line.metric == panel.metric).paired.difference.mean or 0.0
            assert row.chart.dots[0].centre[0] == pytest.approx(150 + 144 * mean / limit, abs=1)


def test_trade_off_has_the_largest_gain_against_the_largest_loss(summary: Summary) -> None:
    drawn = trade_off(summary.comparisons)
    assert drawn is not None
    assert drawn.axes.startswith("world.negative_present to the right, world.attributes upward; ")
    assert [name for _, name, _ in drawn.legend] == [each.other for each in summary.comparisons]
    reference, first, second = (dot.centre for dot in drawn.chart.dots)
    assert reference == second == (210, 150)  # neither gains nor loses
    assert first[0] > 210
    assert first[1] > 150  # below
    gains = {line.metric: line.paired.difference for line in summary.comparisons[0].lines}
    low, high = gains["world.negative_present"].high or 0, gains["world.negative_present"].low or 0
    bars = [line for line in drawn.chart.lines if line.style == "bar series-0"]
    assert bars[0].end[0] == pytest.approx(210 + 184 / 1.15)  # the largest gain that the intervals contain
    assert (bars[0].start[0] - 210) / (bars[0].end[0] - 210) == pytest.approx(low / high)
    threshold = next(line for line in drawn.chart.lines if line.style == "threshold")
    loss = gains["world.attributes"].mean or 0
    assert (threshold.start[1] - 150) / (first[1] - 150) == pytest.approx(-0.05 / loss)
    assert trade_off([replace(each, lines=each.lines[:1]) for each in summary.comparisons]) is None


def test_trade_off_of_one_prompt_has_its_gain_against_its_loss(summary: Summary) -> None:
    arms = [[row for row in summary.rows if row["arm"] == each and row["prompt_id"].endswith(" 0")] for each in ARMS]
    drawn = trade_off([compare(arms[0], arms[1], ARMS[:2])])
    assert drawn is not None
    assert drawn.axes.startswith("world.negative_present to the right, world.attributes upward; ")


def test_thresholds_of_guards_are_drawn_at_their_margins(summary: Summary) -> None:
    comparison = summary.comparisons[0]
    lines = {line.metric: line for line in comparison.lines}
    assert thresholds(lines["world.attributes"], comparison) == [-0.05]
    assert thresholds(lines["temporal.warp_error"], comparison) == []
    estimate = Estimate(mean=0.02, low=-0.02, high=0.06, prompts=8)
    chart = interval_chart(estimate, "good", limit=0.1, thresholds=[-0.05], width=212)
    assert chart is not None
    assert [line.start[0] for line in chart.lines if line.style == "threshold"] == [pytest.approx(56)]


def test_exploratory_metrics_are_in_a_quieter_table(page: str) -> None:
    tables = re.findall(r'<table class="(\w*)">(.*?)</table>', page, flags=re.S)
    styles = [style for style, content in tables if "dual.similarity" in content and "verdict" in content]
    assert styles == ["quiet", "quiet"]
    assert all("world.negative_present" in content for style, content in tables if style == "primary")


def test_definitions_are_at_the_names_of_the_metrics(page: str) -> None:
    for name in ("temporal.warp_error", "dual.similarity"):
        first = METRICS[name].description.partition("\n")[0]
        summaries = page.split('<details class="definition"><summary>')
        assert sum(part.startswith(name) and first in part.replace("&#39;", "'") for part in summaries) >= 3


def test_pairs_are_the_extremes_and_random_ones(summary: Summary) -> None:
    comparison = summary.comparisons[0]
    chosen = choose_pairs(comparison, summary.rows)
    pairs = {line.metric: line.paired.by_prompt for line in comparison.lines}["world.negative_present"]
    best = min(pairs, key=lambda prompt: pairs[prompt][1] - pairs[prompt][0])
    reasons = {choice.key[0]: choice.reasons for choice in chosen}
    assert "largest improvement of world.negative_present" in reasons[best]
    assert sum("random (seed 0)" in each for each in reasons.values()) == 2
    assert chosen == choose_pairs(comparison, summary.rows)
    assert len(choose_pairs(comparison, summary.rows, 3)) == 3


def test_loops_have_all_frames_of_both_variants_and_mark_the_worst() -> None:
    random = np.random.default_rng(0)
    clips = [np.full((frames, 20, 30, 3), level, np.uint8) for frames, level in ((6, 40), (4, 200))]
    loop = make_loop(clips, 8.0, Worst(3, 1))
    assert loop is not None
    data = base64.b64decode(loop.video.removeprefix("data:video/mp4;base64,"))
    assert loop.size == len(data) <= MAX_BYTES
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 8
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 6
    assert (loop.first, loop.last, loop.frames) == (0, 5, 6)
    height, width = frames[0].shape[:2]
    assert (height % 16, width % 16) == (0, 0)
    for frame in frames:  # the shorter clip holds its last frame
        assert frame[60, 60].tolist() == pytest.approx([40] * 3, abs=8)
        assert frame[60, -60].tolist() == pytest.approx([200] * 3, abs=8)
    red = [int(frame[60, -2, 0]) - int(frame[60, -2, 1]) > 80 for frame in frames]
    assert red == [index == 3 for index in range(6)]
    long = make_loop([random.integers(0, 255, (120, 8, 8, 3)).astype(np.uint8)], 24.0, Worst(110, 0))
    assert long is not None
    assert long.last - long.first + 1 == MAX_FRAMES
    assert long.last == 119


def test_size_of_the_clips_is_bounded_and_stated(
    summary: Summary, collection: ClipCollection, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(summary, comparisons=summary.comparisons[:1])
    assert collection.omitted == 0
    sizes = [figure.loop.size for figure in collection.sections[0][1]]
    assert f"{collection.size / 2**20:.2f} MiB of at most 12 MiB" in Page(page).text
    monkeypatch.setattr(clip_figures, "TOTAL_BYTES", sum(sizes) - 10_000)
    smaller, _ = collect_pairs(half)
    assert smaller.size == pytest.approx(sum(sizes[:-1]), rel=0.01)
    assert smaller.omitted == 1
    monkeypatch.setattr(loops, "MAX_BYTES", 10)
    assert make_loop([np.zeros((2, 8, 8, 3), np.uint8)], 8.0) is None


def test_worst_frame_is_the_worst_of_both_variants() -> None:
    rows = [{"m": {"per_frame": values, "frames": 4}} for values in ([0.1, 0.5, None], [0.2, 0.1, 0.6])]
    clips: list[Rows] = [{"temporal.warp_error": row["m"]} for row in rows]
    assert find_worst(clips, "temporal.warp_error") == Worst(3, 1)  # of the pair of frames 2 and 3
    chart = curve_chart([[0.1, 0.5, None], [0.2, 0.1, 0.6]], "", mark=2)
    assert chart is not None
    assert [curve.style for curve in chart.curves] == ["curve reference", "curve other"]
    assert [len(curve.points) for curve in chart.curves] == [2, 3]
    assert next(line for line in chart.lines if line.style == "mark").start[0] == 310
    assert chart.curves[1].points[2] == pytest.approx((310, 10))


def test_a_missing_clip_is_left_out_and_settings_are_in_a_fold(summary: Summary, page: str, tmp_path: Path) -> None:
    rows = [{**row, "clip": str(tmp_path / "gone.mkv")} for row in summary.rows]
    text = to_html(replace(summary, rows=rows, comparisons=summary.comparisons[1:]))
    assert "<video" not in text
    assert not re.search('href="#', text)
    fold = page.split("<summary>Settings and versions</summary>")[1]
    assert json.dumps(HOSTILE).replace("<", "&lt;")[1:9] in fold
    assert "steps: 4" in fold


def test_report_of_one_arm_shows_the_best_and_the_worst_clips(summary: Summary, tmp_path: Path) -> None:
    rows = [row for row in summary.rows if row["arm"] == "none"]
    write(summarize(rows), tmp_path)
    text = (tmp_path / "report.html").read_text()
    parsed = Page(text)
    assert "best temporal.warp_error" in parsed.text
    assert "worst temporal.warp_error" in parsed.text
    assert {value.removeprefix("#") for value in parsed.values("href")} <= set(parsed.values("id"))
    assert parsed.values("href")


def test_terminal_shows_difference_and_interval_at_80_columns(
    summary: Summary, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from vidguide.eval.report import console

    monkeypatch.setattr(console, "console", Console(width=80))
    show(*change_table(summary.comparisons[0]))
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    for line in summary.comparisons[0].lines:
        assert change(line.metric, line.paired.difference) in output
        assert line.metric in output


def test_amounts() -> None:
    assert amount("world.negative_present", 0.1294) == "12.9%"
    assert amount("temporal.warp_error", 0.0123456) == "0.01235"
    assert amount("temporal.warp_error", None) == ""
    estimate = Estimate(mean=-0.1131, low=-0.1564, high=-0.0696, prompts=9)
    assert change("world.negative_present", estimate) == "-11.3 points [-15.6, -7.0]"
    assert change("guard.luma", replace(estimate, low=None, high=None)) == "-0.113"
    assert join_names(["a", "b", "c"]) == "a, b and c"
    assert join_names(["a"]) == "a"
    assert format_needed(10_001) == "more than 10000"


def test_effect_size_and_needed_prompts_equal_their_formulas() -> None:
    differences = np.random.default_rng(1).normal(0.3, 1, 40).tolist()
    mean, deviation = np.mean(differences), np.std(differences, ddof=1)
    assert effect_size(differences) == pytest.approx(mean / deviation, rel=1e-12)
    expected = ((1.959963984540054 + 0.8416212335729143) * deviation / mean) ** 2
    assert prompts_for_difference(differences) == int(np.ceil(expected))
    assert prompts_for_difference([1.0, 1.0], tests=3) == 7  # fewer are never significant
    assert effect_size([0.5, 0.5]) is None
    assert effect_size([0.5]) is None
    assert prompts_for_difference([1.0, -1.0]) is None
