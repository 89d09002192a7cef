"""The design of pairs, the file of votes, and votes in an evaluation."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.source_files import ROOT
from tests.helpers.voted_clips import VARIANTS, make_clips, vote_on_all
from vidguide.clip import Clip
from vidguide.eval.clips.entries import entries
from vidguide.eval.evaluate import assess, evaluate
from vidguide.eval.preference.design import Trial, read_design
from vidguide.eval.preference.rows import summarize_design
from vidguide.eval.preference.votes import (
    DuplicateVoteError,
    VotesError,
    append_vote,
    make_vote,
    read_votes,
    remaining_trials,
)
from vidguide.eval.schemas import Vote
from vidguide.eval.scoring.summary import Summary

STRENGTHS = {"none": 0.0, "cfg": 0.7, "nag": 2.5}
METRIC = "preference.human"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_clips(tmp_path_factory.mktemp("voted"), prompts=8, seeds=(0,))
    vote_on_all(folder, ["anna", "ben", "cem", "dan", "eva"], STRENGTHS)
    return folder


def pair_of(trial: Trial) -> tuple[str, ...]:
    return tuple(clip.variant for clip in trial.clips)


def test_each_rater_sees_each_pair_of_each_prompt_and_seed_once(clips: Path) -> None:
    trials = read_design(clips).trials("anna")
    expected = {(f"p{p}", s, *pair) for p in range(4) for s in (0, 1) for pair in combinations(sorted(VARIANTS), 2)}
    assert Counter((trial.prompt, trial.seed, *pair_of(trial)) for trial in trials) == Counter(expected)
    for trial in trials:
        assert trial.left.path.name == trial.right.path.name == f"{int(trial.prompt[1]):04d}-{trial.seed}.mkv"


@pytest.mark.parametrize("rater", ["anna", "ben", "cem"])
def test_prompts_pairs_and_sides_are_balanced_wherever_a_rater_stops(clips: Path, rater: str) -> None:
    trials = read_design(clips).trials(rater)
    for stop in range(1, len(trials) + 1):
        seen = trials[:stop]
        prompts = Counter(trial.prompt for trial in seen)
        assert max(prompts.values()) - min(prompts[f"p{p}"] for p in range(4)) <= 1
        for pair, count in Counter(map(pair_of, seen)).items():
            left = sum(trial.left.variant == pair[0] for trial in seen if pair_of(trial) == pair)
            assert abs(2 * left - count) <= 1
    for number in range(0, len(trials), 4):  # of four prompts, with three pairs
        counts = Counter(map(pair_of, trials[: number + 4]))
        assert max(counts.values()) - min(counts[pair] for pair in combinations(sorted(VARIANTS), 2)) <= 2


def test_order_and_sides_depend_on_rater_and_seed_only(clips: Path) -> None:
    design = read_design(clips)
    assert design.trials("anna") == read_design(clips).trials("anna")
    orders = [[(t.key, t.left.variant) for t in design.trials(*a)] for a in (("anna",), ("ben",), ("anna", 1))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_sides_cannot_be_predicted_from_the_rater(clips: Path) -> None:
    design = read_design(clips)
    lefts = [design.trials(f"rater {number}")[0].left.variant for number in range(300)]
    for variant in VARIANTS:
        assert 0.22 < lefts.count(variant) / 300 < 0.45  # 1/3, within four standard deviations


def test_missing_clips_and_equal_files_are_counted_and_not_shown(tmp_path: Path) -> None:
    folder = make_clips(tmp_path, prompts=2, seeds=(0,))
    (folder / "clips/cfg/0000-0.mkv").unlink()
    (folder / "clips/nag/0001-0.mkv").write_bytes((folder / "clips/none/0001-0.mkv").read_bytes())
    design = read_design(folder)
    assert (design.incomplete, design.identical) == (1, 1)
    assert {(t.prompt, *pair_of(t)) for t in design.trials("anna")} == {
        *(("p0", "nag", "none"), ("p1", "cfg", "none"), ("p1", "cfg", "nag")),
    }


def test_folders_without_pairs_are_refused(tmp_path: Path) -> None:
    make_clips(tmp_path / "one", ["none"])
    with pytest.raises(ValueError, match="must be clips of at least 2 variants"):
        read_design(tmp_path / "one")
    with pytest.raises(FileNotFoundError):
        read_design(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must be clips"):
        read_design(tmp_path / "empty")
    twice = make_clips(tmp_path / "twice", prompts=1, seeds=(0,))
    for suffix in (".mkv", ".json"):
        path = twice / f"clips/nag/0000-0{suffix}"
        path.with_stem("again").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="have the same arm, prompt and seed"):
        read_design(twice)


def test_a_rater_continues_where_they_stopped_and_a_second_vote_is_refused(clips: Path, tmp_path: Path) -> None:
    design, file = read_design(clips), tmp_path / "votes.jsonl"
    trials = design.trials("anna")
    for trial, choice in zip(trials, ("left", "right", "tie", "skip"), strict=False):
        append_vote(file, make_vote(trial, "anna", choice, 1500))
    assert remaining_trials(design, read_votes(file), "anna") == trials[4:]
    assert remaining_trials(design, read_votes(file), "ben") == design.trials("ben")
    before = file.read_bytes()
    with pytest.raises(DuplicateVoteError, match="'anna': has already voted on this pair"):
        append_vote(file, make_vote(trials[3], "anna", "left", 1500))  # skipped before
    assert file.read_bytes() == before
    first = json.loads(before.splitlines()[0])
    assert {name: first[name] for name in ("rater", "prompt", "seed", "left", "choice", "milliseconds")} == {
        **{"rater": "anna", "prompt": trials[0].prompt, "seed": trials[0].seed, "left": trials[0].left.variant},
        **{"choice": "left", "milliseconds": 1500},
    }
    assert first["variants"] == list(pair_of(trials[0]))
    assert first["sha256"] == [clip.sha256 for clip in trials[0].clips]


@pytest.mark.parametrize("name", ["../x", "<b>anna</b>", 'a"b', "Zoë", "安娜"])
def test_any_printable_name_of_a_rater_is_accepted(clips: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "votes.jsonl"
    append_vote(file, make_vote(read_design(clips).trials(name)[0], name, "left", 1))
    assert read_votes(file)[0].rater == name
    assert {path.name for path in tmp_path.iterdir()} == {"votes.jsonl", "votes.jsonl.lock"}


@pytest.mark.parametrize("name", ["", " anna", "a\nb", "a\x00b", "a\u2028b", "x" * 61, "\ud800"])
def test_other_names_are_refused(clips: Path, name: str) -> None:
    with pytest.raises(VotesError, match=r"rater=.*must"):
        make_vote(read_design(clips).trials("anna")[0], name, "left", 1)


LINE = {
    **{"schema": 1, "rater": "anna", "prompt": "p", "seed": 0, "variants": ["nag", "none"], "left": "nag"},
    **{"choice": "left", "milliseconds": 10, "sha256": ["a" * 64, "b" * 64], "time": "2026-01-01T00:00:00Z"},
}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: is list, must be an object"),
        (json.dumps({**LINE, "choice": "up"}), "line 2: choice='up': must be 'left', 'right', 'tie' or 'skip'"),
        (json.dumps({**LINE, "left": "cfg"}), "line 2: left='cfg': must be one of nag, none"),
        (json.dumps({**LINE, "variants": ["none", "nag"]}), "line 2: variants=.*must be two different names, sorted"),
        (json.dumps({**LINE, "milliseconds": -1}), "line 2: milliseconds=-1: must be greater than or equal to 0"),
        (json.dumps({**LINE, "sha256": ["a" * 64, "x"]}), r"line 2: sha256\[1\]='x'"),
        (json.dumps({**LINE, "schema": 2}), "line 2: schema=2: must be 1"),
        (json.dumps({**LINE, "more": 1}), "line 2: unknown field 'more'"),
        (json.dumps({k: v for k, v in LINE.items() if k != "rater"}), "line 2: lacks 'rater'"),
        (json.dumps({**LINE, "choice": "tie"}), "line 2: 'anna' has a vote on the same clips in line 1"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text(f"{json.dumps(LINE)}\n{line}\n", encoding="utf-8")
    with pytest.raises(VotesError, match=message):
        read_votes(file)
    with pytest.raises(VotesError, match="line 2"):
        append_vote(file, read_votes_of(tmp_path, {**LINE, "rater": "ben"}))


def read_votes_of(folder: Path, line: dict[str, object]) -> Vote:
    """Return the vote of a line."""
    (folder / "other.jsonl").write_text(json.dumps(line) + "\n")
    return read_votes(folder / "other.jsonl")[0]


def test_a_truncated_last_line_is_ignored_and_removed_and_a_complete_one_without_a_break_is_a_vote(
    tmp_path: Path,
) -> None:
    file = tmp_path / "votes.jsonl"
    whole = json.dumps(LINE)
    new = read_votes_of(tmp_path, {**LINE, "rater": "ben"})
    for length in range(0, len(whole), 7):
        file.write_text(whole + "\n" + whole[:length])
        assert len(read_votes(file)) == 1
        append_vote(file, new)
        assert [vote.rater for vote in read_votes(file)] == ["anna", "ben"]
    file.write_text(whole)
    append_vote(file, new)
    assert [vote.rater for vote in read_votes(file)] == ["anna", "ben"]


APPENDING = """
import sys
from pathlib import Path
from vidguide.eval.preference.design import read_design
from vidguide.eval.preference.votes import append_vote, make_vote
design, file = read_design(Path(sys.argv[1])), Path(sys.argv[2])
for number in range(int(sys.argv[3])):
    for trial in design.trials("x"):
        append_vote(file, make_vote(trial, f"rater {number}", "left", 100))
        print("voted", flush=True)
"""


def append_elsewhere(clips: Path, file: Path, raters: int) -> "subprocess.Popen[str]":
    """Start a process that votes as several raters on all pairs, and wait for its first vote."""
    command = [sys.executable, "-c", APPENDING, str(clips), str(file), str(raters)]
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, cwd=ROOT, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "voted\n"
    return process


def test_two_processes_append_whole_lines_to_one_file(clips: Path, tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    process = append_elsewhere(clips, file, 2)
    for trial in read_design(clips).trials("anna"):
        append_vote(file, make_vote(trial, "anna", "left", 100))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert Counter(vote.rater for vote in read_votes(file)) == {"anna": 24, **{f"rater {n}": 24 for n in range(2)}}


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_process_leaves_whole_votes_and_no_lock(clips: Path, tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    process = append_elsewhere(clips, file, 10_000)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    count = len(read_votes(file))
    assert count >= 1
    append_vote(file, make_vote(read_design(clips).trials("anna")[0], "anna", "left", 1))
    assert len(read_votes(file)) == count + 1


def run(folder: Path, output: Path | None = None, arms: Sequence[str] = ("none", "nag"), **options: object) -> Summary:
    """Evaluate a folder of clips by the metric of votes."""
    return evaluate([folder], arms=arms, metrics=options.pop("metrics", ["preference"]), output=output, **options)  # type: ignore[arg-type]


def test_the_evaluation_takes_votes_as_a_primary_metric(voted: Path, tmp_path: Path) -> None:
    summary = run(voted, tmp_path / "report")
    line = summary.comparisons[0].lines[0]
    assert (line.metric, line.primary) == (METRIC, True)
    assert line.verdict == "better"
    rates = {(rate.reference, rate.other): rate for rate in summary.preference.win_rates}  # type: ignore[union-attr]
    rate = rates["none", "nag"]
    assert line.wins == pytest.approx((rate.share, rate.low, rate.high))
    assert line.paired.p == pytest.approx(rate.p)
    assert line.paired.difference.mean == pytest.approx(2 * rate.share - 1)
    assert [each.variant for each in summary.preference.strengths] == ["nag", "cfg", "none"]  # type: ignore[union-attr]
    text = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    for content in (text, page):
        assert "nag against none: human preference: nag" in content
        assert f"{rate.share:.0%} ({rate.low:.0%} to {rate.high:.0%})" in content
        assert "Krippendorff&#39;s alpha" in content or "Krippendorff's alpha" in content
    assert "Count which of two clips people prefer" in page
    assert json.loads(json.dumps(summary.to_dict()))["preference"]["raters"][0]["rater"] == "anna"


def test_a_sweep_takes_the_votes_in_its_folder_whatever_its_variants_are_called(tmp_path: Path) -> None:
    folder = make_clips(tmp_path, ["none", "nag-1.25"], prompts=2, seeds=(0,))
    vote_on_all(folder, ["anna"], {"none": 0.0, "nag-1.25": 20.0})
    names = {"none": "none", "nag-1.25": "nag 1.25"}  # of the variants, by their folders
    listed = [replace(entry, arm=names[entry.arm]) for entry in entries([folder])]
    summary = assess(listed, ["none", "nag 1.25"], folder)
    assert {line.metric for line in summary.comparisons[0].lines if line.primary} >= {METRIC, "temporal.warp_error"}
    assert summary.comparisons[0].lines[0].paired.other == 1.0
    (folder / "clips/none/0000-0.mkv").write_bytes((folder / "clips/none/0001-0.mkv").read_bytes())
    assert any("made again" in note for note in assess(listed, ["none", "nag 1.25"], folder).notes)


def test_the_win_rate_of_an_evaluation_is_the_mean_over_prompts_of_the_votes(voted: Path) -> None:
    shares: dict[str, list[float]] = {}
    for vote in read_votes(voted / "votes.jsonl"):
        if set(vote.variants) == {"nag", "none"}:
            won = {"tie": 0.5, "left": float(vote.left == "nag"), "right": float(vote.left != "nag")}[vote.choice]
            shares.setdefault(vote.prompt, []).append(won)
    expected = float(np.mean([np.mean(values) for values in shares.values()]))
    line = run(voted).comparisons[0].lines[0]
    assert line.paired.other == pytest.approx(expected)
    swapped = run(voted, arms=("nag", "none")).comparisons[0].lines[0]
    assert swapped.paired.other == pytest.approx(1 - expected)
    assert swapped.verdict == "worse"


def test_results_with_votes_are_read_again(voted: Path, tmp_path: Path) -> None:
    first = run(voted, tmp_path / "report")
    for arm in ("none", "nag"):
        rows = [json.loads(line) for line in (tmp_path / "report/results.jsonl").read_text().splitlines()]
        (tmp_path / f"{arm}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows if r["arm"] == arm))
    again = evaluate([], arms=[str(tmp_path / "none.jsonl"), str(tmp_path / "nag.jsonl")], primary=[METRIC])
    assert again.comparisons[0].lines[0] == first.comparisons[0].lines[0]


def test_votes_are_found_in_the_folder_only_if_their_metric_is_wanted(voted: Path, tmp_path: Path) -> None:
    assert run(voted, metrics=["guard.luma"]).preference is None
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes((voted / "votes.jsonl").read_bytes())
    given = run(voted, metrics=["guard.luma"], votes=elsewhere)
    assert {line.metric for line in given.comparisons[0].lines} == {METRIC, "guard.luma"}
    with pytest.raises(FileNotFoundError, match=r"votes='.*missing.jsonl': no such file"):
        run(voted, votes=tmp_path / "missing.jsonl")


def test_without_votes_the_metric_is_undefined_with_the_cure(clips: Path) -> None:
    summary = run(clips)
    assert summary.comparisons[0].lines == []
    assert "vidguide serve" in summary.means[0].reason


def test_votes_on_clips_that_were_made_again_are_set_apart(tmp_path: Path) -> None:
    folder = make_clips(tmp_path, ["none", "nag"], prompts=6, seeds=(0,))
    file = vote_on_all(folder, ["anna", "ben"], STRENGTHS)
    path = folder / "clips/nag/0002-0.mkv"
    provenance = {"prompt": "prompt 2", "prompt_id": "p2", "seed": 0}
    Clip(frames=np.zeros((4, 16, 16, 3), np.uint8), fps=8, provenance=provenance).save(path)
    summary = run(folder)
    assert len(summary.comparisons[0].lines[0].paired.by_prompt) == 5
    expected = "Votes set apart: 2, on clips that have been made again since (their SHA-256 differs)."
    assert expected in summary.notes
    design = read_design(folder)
    assert [trial.prompt for trial in remaining_trials(design, read_votes(file), "anna")] == ["p2"]
    statistics, notes = summarize_design(design, read_votes(file))
    assert statistics is not None
    assert (statistics.win_rates[0].votes, notes) == (10, [expected])


def test_equal_files_of_two_variants_keep_their_votes_apart(tmp_path: Path) -> None:
    folder = make_clips(tmp_path, ["none", "nag", "copy"], prompts=3, seeds=(0,))
    for path in (folder / "clips/nag").iterdir():
        (folder / "clips/copy" / path.name).write_bytes(path.read_bytes())
    votes = read_votes(vote_on_all(folder, ["anna", "ben"], {"none": 0, "nag": 1, "copy": 1}))
    statistics, _ = summarize_design(read_design(folder), votes)
    assert statistics is not None
    assert {(rate.reference, rate.other): rate.votes for rate in statistics.win_rates} == {
        ("copy", "none"): 6,
        ("nag", "none"): 6,
    }
    assert [each.votes for each in statistics.raters] == [6, 6]
    for variant in ("nag", "copy"):
        selected = [vote for vote in votes if variant in vote.variants]
        lost = [0.5 if vote.choice == "tie" else (vote.choice == "left") == (vote.left != variant) for vote in selected]
        [rate] = [each for each in statistics.win_rates if each.reference == variant]
        assert rate.share == pytest.approx(np.mean(lost))
    summary = run(folder, arms=("none", "nag", "copy"))
    assert summary.preference is not None
    assert {rate.votes for rate in summary.preference.win_rates} == {6}


def test_votes_on_other_clips_are_set_apart(voted: Path, tmp_path: Path) -> None:
    folder = make_clips(tmp_path, ["none", "nag"], prompts=1, seeds=(7,))
    assert (
        "Votes set apart: 120, on clips that are not evaluated here." in run(folder, votes=voted / "votes.jsonl").notes
    )


def test_a_repetition_of_the_reference_takes_no_votes(voted: Path) -> None:
    summary = run(voted, again=voted / "clips/none")
    assert summary.preference is not None
    assert summary.preference.win_rates == run(voted).preference.win_rates  # type: ignore[union-attr]


def test_a_hostile_name_of_a_rater_is_inert_in_the_report(tmp_path: Path) -> None:
    folder = make_clips(tmp_path / "sweep", ["none", "nag"], prompts=2, seeds=(0,))
    name = "<script>alert(1)</script>{{ 7 * 7 }}[red]"
    vote_on_all(folder, [name], STRENGTHS)
    run(folder, tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}[red]" in page
