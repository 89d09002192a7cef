"""evaluate(): find clips, score them, compare two arms, write the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from vidguide.clip import replace_whole
from vidguide.eval.clips.entries import Entry, entries, share_negatives
from vidguide.eval.encoders.catalogue import KINDS, lacking
from vidguide.eval.encoders.transformers import Encoder
from vidguide.eval.metrics.base import Metric
from vidguide.eval.metrics.registry import METRICS, chosen
from vidguide.eval.report.html_page import to_html
from vidguide.eval.report.markdown import to_markdown
from vidguide.eval.scoring import results
from vidguide.eval.scoring.results import FINAL, Row
from vidguide.eval.scoring.score import Settings, score
from vidguide.eval.scoring.summary import Summary, summarise
from vidguide.eval.scoring.verdict import PRIMARY, check_primary, compare


def evaluate(
    clips: Sequence[Path] = (),
    *,
    manifest: Path | None = None,
    metrics: list[str] | None = None,
    arms: Sequence[str] | None = None,
    again: Path | None = None,
    primary: Sequence[str] = PRIMARY,
    encoders: Mapping[str, Encoder] | None = None,
    output: Path | None = None,
    settings: Settings | None = None,
    resume: bool = True,
    tell: Callable[[str, int], None] = lambda clip, total: None,
) -> Summary:
    """Score clips, and compare two arms of them where asked.

    Args:
        clips: files and folders; none where the manifest names them, or where `arms` are folders.
        manifest: texts, seeds and arms by clip, see :mod:`vidguide.eval.clips.manifest`.
        metrics: ids or namespaces; None for all that can be computed.
        arms: reference and others: arms of the clips given; without clips, folders of clips or of results.
        again: a folder of clips or results of the reference arm made a second time, for the noise floor.
        primary: metrics declared beforehand, over which p-values are corrected.
        encoders: clip, xclip, dino, from :func:`vidguide.eval.encoders.load.load`.
        output: folder for results.jsonl, results.csv, report.md and report.html; None writes nothing.
        settings: how clips are read.
        resume: keep what an earlier run into the same folder scored already.
        tell: called before each clip with its path and the number of clips.

    Raises:
        ValueError, OSError, ImportError: before anything is scored, naming the argument and the cure.
    """
    check_primary(primary)
    require()
    picked, settings = chosen(metrics, encoders), settings or Settings()
    check_arms(arms)
    groups, ready = gather(list(clips), manifest, arms, again)
    every = [entry for group in groups for entry in group]
    if not every and not any(ready):
        raise ValueError("clips: there is no clip in what was given; give videos, frame folders or folders of them")
    if output:
        output.mkdir(parents=True, exist_ok=True)
    earlier = results.load_earlier(output) if output and resume else []
    if output and not resume:
        (output / results.PART).unlink(missing_ok=True)
    scored = [
        rows or score(group, picked, settings, encoders, output, earlier, lambda clip: tell(clip, len(every)))
        for group, rows in zip(groups, ready, strict=True)
    ]
    names = arms if clips or manifest else [name_of(arm, arms) for arm in arms or ()]
    summary = conclude(scored, names or (), again, primary)
    if output:
        write(summary, output)
    return summary


def assess(
    listed: Sequence[Entry], arms: Sequence[str], output: Path, tell: Callable[[str], None] = lambda _: None
) -> Summary:
    """Score clips of which all is known, and compare their arms, the first being the reference.

    Args:
        listed: clips with their texts.
        arms: of those clips; one alone is not compared.
        output: folder of the results; the report is the caller's to write, by :func:`write`.
        tell: called before each clip with its path.
    """
    require()
    earlier = results.load_earlier(output)
    rows = score(listed, chosen(None), Settings(), None, output, earlier, tell)
    return conclude([rows], arms if len(arms) > 1 else (), None, PRIMARY)


def check_arms(arms: Sequence[str] | None) -> None:
    """Refuse arms that are the same, or one alone."""
    if arms is not None and (len(arms) < 2 or len(set(arms)) < len(arms)):
        raise ValueError(f"compare={arms[0]!r}: both arms are the same; give two")


def require() -> None:
    """Refuse to start without the packages of the `eval` extra.

    Raises:
        ImportError: naming the package and the cure.
    """
    for package in ("cv2", "scipy"):
        if find_spec(package) is None:
            raise ImportError(f"{package}: is not installed; pip install 'vidguide[eval]'")


def gather(
    clips: list[Path], manifest: Path | None, arms: Sequence[str] | None, again: Path | None
) -> tuple[list[list[Entry]], list[list[Row]]]:
    """Groups of clips to score, and beside each the rows where they are scored already.

    One group for clips; without clips one for each arm. The second making of the reference arm comes last.
    """
    groups: list[list[Entry]] = []
    ready: list[list[Row]] = []
    if clips or manifest:
        groups.append(entries(clips, manifest))
        ready.append([])
    for arm in () if clips or manifest else arms or ():
        listed, rows = arm_of(Path(arm), name_of(arm, arms))
        groups.append(listed)
        ready.append(rows)
    if again:
        listed, rows = arm_of(again, f"{again} (again)")
        groups.append(listed)
        ready.append(rows)
    shared = iter(share_negatives(entry for group in groups for entry in group))
    return [[next(shared) for _ in group] for group in groups], ready


def name_of(arm: str, arms: Sequence[str] | None) -> str:
    """The name of a folder or file for an arm, or its whole path where several are called the same."""
    short = [Path(one).stem for one in arms or ()]
    return Path(arm).stem if len(set(short)) == len(short) else arm


def arm_of(folder: Path, name: str) -> tuple[list[Entry], list[Row]]:
    """A folder or file as one arm of that name: its clips, or its rows where it holds results."""
    if folder.suffix == ".jsonl" or (folder / FINAL).is_file():
        return [], [{**row, "arm": name} for row in results.load(folder)]
    return [replace(entry, arm=name) for entry in entries([folder])], []


def conclude(scored: list[list[Row]], arms: Sequence[str], again: Path | None, primary: Sequence[str]) -> Summary:
    """Hold each arm against the first, and summarise."""
    repeated = scored.pop() if again else []
    rows = [row for group in scored for row in group]
    sides = {arm: [row for row in rows if row["arm"] == arm] for arm in arms}
    for arm, side in sides.items():
        if not side:
            known = ", ".join(dict.fromkeys(row["arm"] for row in rows))
            raise ValueError(f"compare={arm!r}: no clip is of this arm; there are {known}")
    found = [compare(sides[arms[0]], sides[other], (arms[0], other), primary, repeated) for other in arms[1:]]
    return summarise([*rows, *repeated], found)


def write(summary: Summary, output: Path, head: str = "") -> list[Path]:
    """The report's files; each appears whole or not at all. `head` is HTML that the page shows first."""
    written = [results.finish(output, summary.rows), output / "results.csv"]
    results.write_csv(written[1], summary.rows)
    for name, text in (("report.md", to_markdown(summary)), ("report.html", to_html(summary, head))):
        written.append(output / name)
        put(output / name, text)
    return written


def put(path: Path, text: str) -> None:
    """Write a text file whole; a file name that is no UTF-8 is shown with its bytes."""
    replace_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def listing() -> list[dict[str, str]]:
    """Every metric, for people: what it needs, the licence of its weights, whether it can be had here, what it is."""

    def row(metric: Metric) -> dict[str, str]:
        packages = dict.fromkeys(name for kind in metric.encoders for name in KINDS[kind].packages)
        needs = ", ".join((*metric.needs, *(f"{kind} weights" for kind in metric.encoders), *packages))
        return {
            "metric": metric.id,
            "better": metric.better or "guard",
            "needs": needs or "nothing",
            "weights": metric.weights or "; ".join(KINDS[kind].example for kind in metric.encoders) or "none",
            "licence": ", ".join(dict.fromkeys(KINDS[kind].licence for kind in metric.encoders)) or "Apache-2.0",
            "available here": lacking(metric.encoders) or "yes",
            "what": metric.about.partition("\n")[0],
        }

    return [row(metric) for metric in METRICS.values()]
