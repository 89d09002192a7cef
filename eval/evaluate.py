"""evaluate(): find clips, score them, compare arms, and write the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from vidguide.clip import replace_whole
from vidguide.eval.clips.entries import Entry, entries, share_negatives
from vidguide.eval.encoders.catalogue import KINDS, missing_requirement
from vidguide.eval.encoders.transformers import Encoder
from vidguide.eval.metrics.base import Metric
from vidguide.eval.metrics.human_preference import PREFERENCE
from vidguide.eval.metrics.registry import METRICS, namespace, select_metrics
from vidguide.eval.pool.protocol import Backend
from vidguide.eval.pool.serial import Serial
from vidguide.eval.pool.status import Status
from vidguide.eval.preference.rows import find_votes, preference_rows
from vidguide.eval.preference.votes import read_votes
from vidguide.eval.report.html_page import Opening, to_html
from vidguide.eval.report.markdown import to_markdown
from vidguide.eval.schemas import Vote
from vidguide.eval.scoring import results
from vidguide.eval.scoring.results import FINAL, Row
from vidguide.eval.scoring.score import Settings, score
from vidguide.eval.scoring.summary import Summary, summarize
from vidguide.eval.scoring.verdict import PRIMARY, check_primary, compare

PACKAGES = {"cv2": "opencv-python-headless"}  # module to package where the names differ
REQUIRED = ("cv2", "scipy", "jinja2", "natsort")  # modules of the `eval` extra


@dataclass
class ClipGroup:
    """Clips of one source: entries to score, or the rows of an earlier evaluation."""

    entries: list[Entry] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def evaluate(
    clips: Sequence[Path] = (),
    *,
    manifest: Path | None = None,
    metrics: list[str] | None = None,
    arms: Sequence[str] | None = None,
    again: Path | None = None,
    primary: Sequence[str] = PRIMARY,
    votes: Path | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    output: Path | None = None,
    settings: Settings | None = None,
    resume: bool = True,
    backend: Backend | None = None,
    on_status: Callable[[Status], None] = lambda status: None,
) -> Summary:
    """Score clips, and compare arms of them.

    Args:
        clips: files and folders; empty if the manifest names the clips, or if `arms` are folders.
        manifest: texts, seeds and arms by clip, see :mod:`vidguide.eval.clips.manifest`.
        metrics: ids or namespaces; None for all that can be computed.
        arms: the reference arm and others: names of arms among the clips; without clips, folders of clips or results.
        again: a folder of clips or results of a repetition of the reference arm, for the noise floor.
        primary: metrics declared beforehand, over which p-values are corrected. With votes, `preference.human` is one
            more by default.
        votes: file of votes on pairs of the clips; None for `votes.jsonl` in the folders of clips, where it exists.
        encoders: by kind, from :func:`vidguide.eval.encoders.load.load`, or
            :class:`vidguide.eval.encoders.networks.Networks`, which workers in other processes need.
        output: folder for results.jsonl, results.csv, report.md and report.html; None writes nothing.
        settings: how clips are read; the memory limit is that of each worker.
        resume: reuse the results of an earlier run in the same folder.
        backend: where clips are scored, such as :class:`vidguide.eval.pool.processes.Processes`; None for this process.
            The rows do not depend on it.
        on_status: called with the progress.

    Raises:
        ValueError, OSError, ImportError: before any scoring, naming the argument and the cure.
    """
    check_primary(primary)
    require()
    selected, settings = select_metrics(metrics, encoders or ()), settings or Settings()
    check_arms(arms)
    ballots = load_votes(votes, clips, metrics)
    groups = collect_groups(list(clips), manifest, arms, again)
    if backend is None or isinstance(backend, Serial):
        encoders = dict(encoders or {})  # loads networks before any file is written
    earlier = prepare_output(output, resume) if output else []
    missing = [entry for group in groups for entry in group.entries]
    rows = iter(score(missing, selected, settings, encoders, output, earlier, backend, on_status))
    scored = [group.rows or [next(rows) for _ in range(len(group.entries) * len(selected))] for group in groups]
    arms_are_folders = not (clips or manifest)
    names = [arm_name(arm, arms) if arms_are_folders else arm for arm in arms or ()]
    summary = summarize_with_votes(scored, names, again, primary, ballots)
    if output:
        write(summary, output)
    return summary


def assess(
    clips: Sequence[Entry],
    arms: Sequence[str],
    output: Path,
    backend: Backend | None = None,
    on_status: Callable[[Status], None] = lambda status: None,
) -> Summary:
    """Score clips with known texts, and compare their arms with the first one, with the votes in the output folder.

    The report is not written; call :func:`write`.

    Args:
        clips: with their texts.
        arms: of those clips; a single one is not compared.
        output: folder of the results.
        backend, on_status: as for :func:`evaluate`.
    """
    require()
    earlier = results.load_existing(output)
    ballots = load_votes(None, [output], None)
    rows = score(clips, select_metrics(None), Settings(), None, output, earlier, backend, on_status)
    return summarize_with_votes([rows], arms if len(arms) > 1 else (), None, PRIMARY, ballots)


def check_arms(arms: Sequence[str] | None) -> None:
    """Refuse a single arm and duplicates."""
    if arms is not None and (len(arms) < 2 or len(set(arms)) < len(arms)):
        raise ValueError(f"compare={arms[0]!r}: both arms are the same; give two different ones")


def require() -> None:
    """Check that the packages of the `eval` extra are installed.

    Raises:
        ImportError: naming the package and the cure.
    """
    for module in REQUIRED:
        if find_spec(module) is None:
            raise ImportError(f"{PACKAGES.get(module, module)}: not installed; pip install 'vidguide[eval]'")


def prepare_output(output: Path, resume: bool) -> list[Row]:
    """Create the output folder, and return the rows of an earlier run; without `resume` discard unfinished ones."""
    output.mkdir(parents=True, exist_ok=True)
    if resume:
        return results.load_existing(output)
    (output / results.PART).unlink(missing_ok=True)
    return []


def collect_groups(
    clips: list[Path], manifest: Path | None, arms: Sequence[str] | None, again: Path | None
) -> list[ClipGroup]:
    """Return one group of all clips, or without clips one per arm; a repetition of the reference arm comes last.

    Raises:
        ValueError: there is no clip.
    """
    if clips or manifest:
        groups = [ClipGroup(entries(clips, manifest))]
    else:
        groups = [load_arm(Path(arm), arm_name(arm, arms)) for arm in arms or ()]
    if again:
        groups.append(load_arm(again, f"{again} (again)"))
    if not any(group.entries or group.rows for group in groups):
        raise ValueError("clips: no clip in the given paths; give videos, frame folders or folders of them")
    shared = iter(share_negatives(entry for group in groups for entry in group.entries))
    return [ClipGroup([next(shared) for _ in group.entries], group.rows) for group in groups]


def arm_name(arm: str, arms: Sequence[str] | None) -> str:
    """Return the name of a folder or file as the name of its arm; the whole path if several have the same name."""
    names = [Path(path).stem for path in arms or ()]
    return Path(arm).stem if len(set(names)) == len(names) else arm


def load_arm(folder: Path, name: str) -> ClipGroup:
    """Return a folder or file as one arm: its rows if it contains results, else its clips."""
    if folder.suffix == ".jsonl" or (folder / FINAL).is_file():
        return ClipGroup(rows=[{**row, "arm": name} for row in results.load(folder)])
    return ClipGroup([replace(entry, arm=name) for entry in entries([folder])])


def load_votes(votes: Path | None, folders: Sequence[Path], metrics: list[str] | None) -> list[Vote] | None:
    """Return the votes to evaluate: of the given file, else of one in the folders if its metric is wanted; else None.

    Raises:
        VotesError: a line is no vote. FileNotFoundError: there is no such file.
    """
    is_wanted = votes is not None or metrics is None or not {PREFERENCE, namespace(PREFERENCE)}.isdisjoint(metrics)
    path = find_votes(votes, folders) if is_wanted else None
    return None if path is None else read_votes(path)


def summarize_with_votes(
    scored: list[list[Row]],
    arms: Sequence[str],
    again: Path | None,
    primary: Sequence[str],
    votes: Sequence[Vote] | None,
) -> Summary:
    """Add the rows of votes to the first group, and compare arms; arguments as for :func:`compare_arms`."""
    if votes is None:
        return compare_arms(scored, arms, again, primary)
    measured = [row for group in scored[: -1 if again else None] for row in group]
    rows, notes = preference_rows(measured, votes)
    groups = [[row for row in group if row["metric"] != PREFERENCE] for group in scored]
    groups[0] += rows
    declared = (*primary, PREFERENCE) if primary == PRIMARY else primary
    summary = compare_arms(groups, arms, again, declared)
    return replace(summary, notes=[*summary.notes, *notes])


def compare_arms(scored: list[list[Row]], arms: Sequence[str], again: Path | None, primary: Sequence[str]) -> Summary:
    """Compare each arm with the first, and return the summary.

    Args:
        scored: rows by group; if `again` is given, the last group is the repetition.
        arms: names, the reference first; empty for no comparison.
        again: see :func:`evaluate`.
        primary: see :func:`evaluate`.

    Raises:
        ValueError: an arm without clips.
    """
    repetition = scored.pop() if again else []
    rows = [row for group in scored for row in group]
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in arms}
    for arm, arm_rows in by_arm.items():
        if not arm_rows:
            names = ", ".join(dict.fromkeys(row["arm"] for row in rows))
            raise ValueError(f"compare={arm!r}: no clip of this arm; must be one of {names}")
    comparisons = [compare(by_arm[arms[0]], by_arm[arm], (arms[0], arm), primary, repetition) for arm in arms[1:]]
    return summarize([*rows, *repetition], comparisons)


def write(summary: Summary, output: Path, opening: Opening | None = None) -> list[Path]:
    """Write the results and the report, each file atomically.

    Args:
        summary: content of the report.
        output: folder.
        opening: what the page shows first.

    Returns:
        the paths of the files.
    """
    written = [results.finish(output, summary.rows), output / "results.csv"]
    results.write_csv(written[1], summary.rows)
    for name, text in (("report.md", to_markdown(summary)), ("report.html", to_html(summary, opening))):
        written.append(output / name)
        write_text(output / name, text)
    return written


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; file names that are not UTF-8 are written with escaped bytes."""
    replace_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def metric_rows() -> list[dict[str, str]]:
    """Return a row of text per metric: its requirements, licence of the weights, availability and description."""
    return [metric_row(metric) for metric in METRICS.values()]


def metric_row(metric: Metric) -> dict[str, str]:
    """Return the row of one metric."""
    kinds = [KINDS[kind] for kind in metric.encoders]
    packages = dict.fromkeys(name for kind in kinds for name in kind.packages)
    needs = ", ".join((*metric.needs, *(f"{kind} weights" for kind in metric.encoders), *packages))
    return {
        "metric": metric.id,
        "better": metric.better or "guard",
        "needs": needs or "nothing",
        "weights": metric.weights or "; ".join(kind.example for kind in kinds) or "none",
        "licence": ", ".join(dict.fromkeys(kind.licence for kind in kinds)) or "Apache-2.0",
        "available here": missing_requirement(metric.encoders) or "yes",
        "what": metric.description.partition("\n")[0],
    }
