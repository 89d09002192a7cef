"""Heat maps of the trace and of heads: well-formed SVG with the values of every step and layer."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from vidguide.guidances.head_probe import HeadMass
from vidguide.pipelines.cli.head_map import COLOURS, head_plot
from vidguide.tracing.heat_map import Panel, Picture, check_svg, draw, scaled
from vidguide.tracing.run import PerturbedPass, SampleChoice, Trace
from vidguide.tracing.stopwatch import Stopwatch

SVG = "{http://www.w3.org/2000/svg}"
CHANGE = {(0, 2): 0.25, (0, 5): 0.5, (1, 2): 0.1, (1, 5): 0.0}  # by step and layer
HOSTILE = '<script>alert(1)</script> & "quoted" ${x}'


def parse(picture: Picture) -> ElementTree.Element:
    """Return the root of a picture, after a check that nothing in it is outside."""
    root = ElementTree.fromstring(picture.svg)
    assert root.tag == f"{SVG}svg"
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for each in root.iter(f"{SVG}rect"):
        assert float(each.get("x", 0)) + float(each.get("width", 0)) <= width
        assert float(each.get("y", 0)) + float(each.get("height", 0)) <= height
    for each in root.iter(f"{SVG}text"):
        if each.get("text-anchor") == "start":
            assert float(each.get("x", 0)) + 6 * len(each.text or "") <= width
    return root


def cells(root: ElementTree.Element) -> dict[str, tuple[str, float, bool]]:
    """Return text, opacity and mark of each cell by its tooltip."""
    named_cells = {}
    for group in root.iter(f"{SVG}g"):
        title, rect, text = group[0].text or "", group[1], group[2].text or ""
        named_cells[title] = (text, float(rect.get("fill-opacity", 1)), len(group) == 4)
    return named_cells


def make_trace() -> Trace:
    trace = Trace()
    for (step, layer), change in CHANGE.items():
        trace.add(step, layer, "video", torch.tensor([change / 2, change * 4, 4.0]))
    trace.steps = 2
    return trace


def test_trace_has_a_cell_for_each_step_and_layer() -> None:
    root = parse(make_trace().plot())
    titles = [each.text or "" for each in root.iter(f"{SVG}text")]
    assert "video: relative change of the features, at most 50.0%" in titles
    assert "video: share of the tokens that tau limits, at most 25.0%" in titles
    panel = cells(root)
    assert panel["step 0, layer 5: 0.5"] == ("50%", 0.6, False)
    assert panel["step 0, layer 2: 0.25"] == ("25%", 0.3, False)
    assert panel["step 1, layer 5: 0.0"] == ("0%", 0.0, False)
    assert len(list(root.iter(f"{SVG}g"))) == 2 * len(CHANGE)


def test_trace_frames_the_layers_that_emag_perturbs() -> None:
    trace = make_trace()
    for step, layer in ((0, 2), (1, 5)):
        choice = SampleChoice((layer,), {2: 0.2 + step, 5: 0.4 + step})
        watch = Stopwatch(torch.device("cpu"))
        trace.choices.append(PerturbedPass(step, "EMAG", (layer,), (choice,), watch))
        trace.choices.append(PerturbedPass(step, "PAG", (7,), (), watch))
    root = parse(trace.plot())
    titles = [each.text or "" for each in root.iter(f"{SVG}text")]
    assert "EMAG: D of the candidates, at most 1.4; framed: perturbed layers" in titles
    assert "PAG: perturbed layers" in titles
    panel = cells(root)
    assert panel["step 0, layer 2: D = 0.2"] == ("0.20", round(0.6 * 0.2 / 1.4, 3), True)
    assert panel["step 0, layer 5: D = 0.4"][2] is False
    assert panel["step 1, layer 5: D = 1.4"] == ("1.40", 0.6, True)
    assert panel["step 1, layer 7"] == ("", 0.0, True)
    assert len(list(root.iterfind(f".//{SVG}rect[@class='mark']"))) == 4


def test_an_empty_trace_states_why() -> None:
    trace = Trace()
    trace.note([HOSTILE])
    root = parse(trace.plot())
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert texts == ["nothing was measured in this run", HOSTILE]


def test_names_are_escaped() -> None:
    cell = scaled(0.5, 1.0, HOSTILE)
    panel = Panel(title=HOSTILE, rows=[HOSTILE], columns=["1"], cells={(0, 0): cell})
    root = parse(draw([panel], HOSTILE))
    assert not list(root.iter(f"{SVG}script"))
    assert cells(root) == {HOSTILE: ("50%", 0.3, False)}


def test_pictures_are_files_and_shown_by_notebooks(tmp_path: Path) -> None:
    picture = make_trace().plot()
    path = picture.save(tmp_path / "new" / "trace.svg")
    assert path.read_text() == picture.svg == picture._repr_svg_()
    with pytest.raises(ValueError, match=r"trace='trace.png': the suffix must be .svg"):
        check_svg("trace.png", "trace")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(OSError, match="cannot be written"):
        picture.save(tmp_path / "folder.svg")


def test_heads_have_their_share_along_time_and_their_mark() -> None:
    lifted = [(0.6, 0.1), (0.05, 0.5), (0.2, 0.2)]
    heads = [HeadMass(layer, head, *lifted[head], (4, 3, 3)) for layer in (0, 4) for head in range(3)]
    root = parse(head_plot(heads))
    titles = [group[0].text or "" for group in root.iter(f"{SVG}g")]
    for head, title in zip(heads, titles, strict=True):
        within, along = head.lifts
        assert title == f"layer {head.layer}, head {head.head}: {along / (along + within):.1%}, {head.extent}"
    fills = [group[1].get("fill") for group in root.iter(f"{SVG}g")]
    assert set(fills) <= set(COLOURS)
    assert re.search(r"temporal \d, spatial \d, neither \d", "".join(root.itertext()))


def test_drawing_needs_no_matplotlib() -> None:
    make_trace().plot()
    assert "matplotlib" not in sys.modules
