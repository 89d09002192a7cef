"""The report of a calibration: fits, the settings that are chosen, files, and the command line end to end."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vidguide import CFG, EMAG, PAG, generate
from vidguide.guidances.base import Guidance
from vidguide.pipelines.calibration.candidates import candidates, defaults
from vidguide.pipelines.calibration.heat_map import AWAY, TOWARDS, blend, heat_map, panels
from vidguide.pipelines.calibration.report import markdown, save
from vidguide.pipelines.calibration.result import Calibration, Level, fit
from vidguide.pipelines.cli.app import app
from vidguide.pipelines.request.guidance_spec import parse


def products(scale: float, noise: float, size: float = 1.0, levels: int = 2, clips: int = 30) -> torch.Tensor:
    """Return `(T, N, 4)` products of an error that is `scale` times a direction plus noise of a known size."""
    direction = size * torch.randn(levels, clips, 50, dtype=torch.float64)
    error = scale * direction + noise * torch.randn(levels, clips, 50, dtype=torch.float64)
    prediction = torch.ones(levels, clips, 50, dtype=torch.float64)
    pairs = ((error, direction), (direction, direction), (error, error), (prediction, prediction))
    return torch.stack([(first * second).sum(-1) for first, second in pairs], -1)


def calibration(guidances: list[Guidance], sums: list[torch.Tensor], layers: tuple[int, ...] = (0, 1)) -> Calibration:
    compared = candidates(guidances, 2, layers)
    levels = (Level(step=2, sigma=0.9), Level(step=5, sigma=0.4))
    return Calibration(
        model="tiny", clips="30 renders", steps=10, seed=0, levels=levels, candidates=tuple(compared),
        products=torch.stack(sums),
    )  # fmt: skip


@pytest.fixture
def result() -> Calibration:
    torch.manual_seed(0)
    sums = [products(0.2, 0.5), products(0.9, 0.5), products(2.0, 8.0)]  # EMAG in layer 0, 1 and all
    sums += [products(-0.5, 0.3), products(0.0, 1.0), products(0.4, 0.5)]  # PAG in layer 0 and 1, CFG
    return calibration([EMAG(decay=0.5), PAG(), CFG(negative_prompt="")], sums)


def test_the_settings_file_has_the_setting_that_explains_most_in_the_units_of_its_guidance(
    result: Calibration, tmp_path: Path
) -> None:
    chosen = result.best()
    assert {name: result.candidates[index].layers for name, index in chosen.items()} == {"emag": "1", "cfg": "-"}
    save(result, tmp_path)
    (emag,) = parse(f"emag:@{tmp_path / 'settings.json'}")
    assert isinstance(emag, EMAG)
    assert (emag.decay, emag.variant, emag.select) == (0.5, "query", (1,))
    assert emag.scale == round(1 + result.fits[1][-1].scale, 4)
    assert emag.scale == pytest.approx(1.9, abs=0.1)
    (cfg,) = parse(f"cfg:@{tmp_path / 'settings.json'}")
    assert isinstance(cfg, CFG)
    assert cfg.scale == pytest.approx(1.4, abs=0.1)
    with pytest.raises(ValueError, match=r"settings\.json: guidances has no 'pag'; it has emag, cfg"):
        parse(f"pag:@{tmp_path / 'settings.json'}")
    (changed,) = parse(f"emag:@{tmp_path / 'settings.json'},scale=3,stop=0.9")
    assert isinstance(changed, EMAG)
    assert (changed.scale, changed.stop, changed.select) == (3, 0.9, (1,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "lacks the field guidances"),
        ('{"guidances": {}}', "guidances has no 'emag'; it has none: no setting pointed to the truth"),
        ('{"guidances": {"emag": 3}}', r"guidances\.emag: must be an object"),
        (
            '{"guidances": {"emag": {"decya": 0.5}}}',
            r"guidances\.emag\.decya: unknown parameter .*did you mean 'decay'",
        ),
        (
            '{"guidances": {"emag": {"select": [1, "a"]}}}',
            r"guidances\.emag\.select=\[1, 'a'\]: must be several, each an integer",
        ),
        ('{"guidances": {"emag": {"strength": true}}}', r"guidances\.emag\.strength=True: must be a number"),
        ('{"guidances": {"emag": {"scale": -1}}}', r"s\.json: EMAG\(scale=-1.*\): must be at least 0"),
    ],
)
def test_wrong_settings_files_are_refused_by_file_and_field(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        parse(f"emag:@{path}")
    assert str(path) in str(raised.value)


def test_a_missing_settings_file_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"emag:@none\.json: no such file"):
        parse("emag:@none.json")


def test_fits_are_those_of_the_sums_over_clips_and_levels(result: Calibration) -> None:
    sums = result.products[1].sum((0, 1))
    overall = result.fits[1][-1]
    assert overall.scale == pytest.approx((sums[0] / sums[1]).item(), rel=1e-12)
    assert overall.explained == pytest.approx((sums[0] ** 2 / sums[1] / sums[2]).item(), rel=1e-12)
    assert overall.low < overall.scale < overall.high
    assert overall.cosine == pytest.approx(math.sqrt(overall.explained))
    assert [fits[-1].points for fits in result.fits] == [1, 1, 1, -1, 0, 1]


def test_a_direction_of_zero_has_no_scale_and_is_never_chosen() -> None:
    sums = products(1.0, 0.1, size=0.0)
    assert math.isnan(fit(sums[0]).scale)
    empty = calibration([EMAG(decay=0.5, select=(0,))], [sums])
    assert empty.settings_file()["guidances"] == {}
    assert json.loads(json.dumps(empty.to_dict()))["settings"][0]["all"]["scale"] is None
    assert heat_map(empty).size[0] > 0
    assert "| - |" in markdown(empty)


def test_the_heat_map_has_a_panel_per_setting_and_the_colour_of_each_cosine(result: Calibration) -> None:
    assert {name: [row for row, _ in rows] for name, rows in panels(result).items()} == {
        "emag:variant=query,decay=0.5": ["0", "1", "all"],
        "pag": ["0", "1"],
        "without layers": ["cfg"],
    }
    assert (blend(1), blend(-1), blend(0), blend(2)) == (TOWARDS, AWAY, (255, 255, 255), TOWARDS)
    cosines = [fit.cosine for fits in result.fits for fit in fits]
    colours = {colour for _, colour in heat_map(result).getcolors(1 << 20) or []}
    largest = max(map(abs, cosines))
    assert {blend(cosine / largest) for cosine in cosines} <= colours


def test_json_has_the_sums_of_every_clip(result: Calibration) -> None:
    content = json.loads(json.dumps(result.to_dict()))
    np.testing.assert_allclose(content["error_error"], result.products[0, ..., 2], rtol=1e-5)
    for entry, sums in zip(content["settings"], result.products, strict=True):
        np.testing.assert_allclose(entry["error_direction"], sums[..., 0], rtol=1e-5)
        np.testing.assert_allclose(entry["direction_direction"], sums[..., 1], rtol=1e-5)
        assert entry["all"]["scale"] == pytest.approx((sums.sum((0, 1))[0] / sums.sum((0, 1))[1]).item())


def test_every_spec_is_parsed_to_its_setting() -> None:
    for candidate in candidates(defaults(100), 3):
        (parsed,) = parse(candidate.spec)
        expected: Any = {**candidate.guidance.describe(), "negative_prompt": None}
        assert {**parsed.describe(), "negative_prompt": None} == expected
    assert {candidate.group for candidate in candidates(defaults(100), 3)} > {"emag:variant=map,decay=auto", "tpg"}
    assert not any("map" in candidate.group for candidate in candidates(defaults(5000), 3))


def test_the_command_line_measures_and_its_settings_guide_a_clip(tmp_path: Path) -> None:
    arguments = ["calibrate", "tiny", "--count", "4", "--batch", "2", "--at", "0.4", "--steps", "5", "--layers", "0/3"]
    arguments += ["-g", "emag:decay=0.5", "-g", "pag", "-o", str(tmp_path), "--device", "cpu"]
    output = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert output.exit_code == 0, output.output
    printed = json.loads(output.stdout.strip().splitlines()[-1])
    assert {Path(path).name for path in printed["files"]} == {path.name for path in tmp_path.iterdir()}
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert [entry["spec"] for entry in content["settings"]] == [
        *(f"emag:variant=query,decay=0.5,select={layers}" for layers in ("0", "3", "0/3")),
        *("pag:layers=0", "pag:layers=3"),
    ]
    assert np.shape(content["settings"][0]["error_direction"]) == (1, 4)
    assert (content["steps"], content["levels"][0]["step"]) == (5, 2)
    with Image.open(tmp_path / "calibration.png") as picture:
        assert picture.size[0] > 200
    assert {name: printed["guidances"][name] for name in printed["guidances"]} == json.loads(
        (tmp_path / "settings.json").read_text()
    )["guidances"]
    (tmp_path / "settings.json").write_text(json.dumps({"guidances": {"emag": {"scale": 5, "select": [0, 3]}}}))
    (emag,) = parse(f"emag:@{tmp_path / 'settings.json'}")
    clip = generate("a red circle", guidance=[emag], steps=5, device="cpu", progress=False)
    assert clip.provenance["guidance"][0]["select"] == (0, 3)


def test_the_command_line_reports_bad_input_in_one_line(tmp_path: Path) -> None:
    runner = CliRunner()
    for arguments, message in (
        (["--clips", str(tmp_path)], "has no videos or folders of frames"),
        (["-g", "nag"], "NAG: is no scale times a difference of two predictions"),
        (["-g", "pgg"], "unknown guidance 'pgg'"),
        (["--layers", "x"], "layers='x': must be several"),
        (["--at", "1"], "must be fractions of the run"),
    ):
        output = runner.invoke(app, ["calibrate", "tiny", *arguments, "-q", "-o", str(tmp_path / "new")])
        assert output.exit_code == 2
        assert message in " ".join(output.output.split()), output.output
        assert not (tmp_path / "new").exists()
