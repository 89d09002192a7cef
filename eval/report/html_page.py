"""The summary as one HTML file that needs no network, no script and no other file; light and dark, wide and narrow."""

import html
from collections.abc import Sequence
from pathlib import Path

from vidguide.eval.metrics.registry import METRICS
from vidguide.eval.report import charts as drawing
from vidguide.eval.report import contact_sheets as pictures
from vidguide.eval.report.markdown import arrow, comparison_table, filled, protocol, standing_table, unmeasured
from vidguide.eval.scoring.summary import Summary
from vidguide.eval.scoring.verdict import Comparison, Line, direction

STYLE = """
:root{color-scheme:light dark;--ink:#1d1d1f;--paper:#fff;--soft:#f3f3f5;--rule:#d5d5da;--dim:#66666c;
--good:#14713d;--bad:#b3261e;--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ink:#e9e9ec;--paper:#16161a;--soft:#222228;--rule:#3a3a42;--dim:#a0a0a8;
--good:#5fce8d;--bad:#ff8a80;--warn:#f0bd5b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:75rem;
margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--dim);font-weight:500}tr.primary td:first-child{font-weight:600}
ul.notes{background:var(--soft);padding:.7rem 1rem .7rem 2rem;border-left:3px solid var(--warn)}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.same{color:var(--dim)}
.charts{display:flex;flex-wrap:wrap;gap:1.5rem}figure{margin:0 0 1rem;max-width:100%}figcaption{color:var(--dim)}
img,svg,video{max-width:100%;height:auto}td svg{max-width:none;vertical-align:middle}
svg text{font:11px system-ui,sans-serif;fill:var(--dim)}
.zero,.axis{stroke:var(--rule)}.bar{stroke:currentColor;stroke-width:2}.dot{fill:currentColor}
.slope{stroke:currentColor;opacity:.6}.curve{fill:none;stroke:var(--ink);stroke-width:1.5}
pre{white-space:pre-wrap;color:var(--dim);font:13px/1.45 ui-monospace,monospace}
"""


def kind_of(verdict: str) -> str:
    """The colour of a verdict."""
    heads = {"better": "good", "worse": "bad", "confounded": "warn", "not comparable": "warn"}
    return next((kind for head, kind in heads.items() if verdict.startswith(head)), "same")


def cell(text: str, kind: str = "") -> str:
    """A table cell."""
    return f'<td class="{kind}">{html.escape(text)}</td>' if kind else f"<td>{html.escape(text)}</td>"


def table(header: Sequence[str], body: str) -> str:
    """A table that scrolls within itself on a narrow screen."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def paired_table(header: Sequence[str], lines: Sequence[Line], rows: Sequence[Sequence[str]]) -> str:
    """A paired table of the columns that hold something, each interval drawn beside its numbers."""
    kept, body = filled(header, rows), ""
    for line, row in zip(lines, rows, strict=True):
        found, kind = line.paired.difference, kind_of(line.verdict)
        cells = ""
        for index in kept:
            cells += cell(row[index], kind if header[index] == "verdict" else "")
            if header[index] == "95% interval":
                cells += f"<td>{drawing.interval(found.mean, found.low, found.high, kind)}</td>"
        body += f'<tr class="{"primary" if line.primary else ""}">{cells}</tr>'
    shown = [name for index in kept for name in ([header[index], ""] if "%" in header[index] else [header[index]])]
    return table(shown, body)


def comparison_part(found: Comparison) -> str:
    """The paired table, guards apart, and the slopes of the primary metrics."""
    header, rows = comparison_table(found)
    parts = [f"<h2>{html.escape(found.other)} against {html.escape(found.reference)}</h2>"]
    for title, guards in (("", False), ("Guards: what must not have moved", True)):
        both = zip(found.lines, rows, strict=True)
        picked = [(line, row) for line, row in both if guards == (direction(line.metric) == 0)]
        if picked:
            made = paired_table(header, [line for line, _ in picked], [row for _, row in picked])
            parts.append((f"<h2>{title}</h2>" if title else "") + made)
    charts = [
        figure(
            drawing.slopes(line.paired.by_prompt, (found.reference, found.other), direction(line.metric), line.metric),
            f"{arrow(line.metric)}, one line per prompt",
        )
        for line in found.lines
        if line.primary and line.paired.by_prompt
    ]
    return "".join(parts) + (f'<h2>Prompt by prompt</h2><div class="charts">{"".join(charts)}</div>' if charts else "")


def figure(picture: str, caption: str) -> str:
    """A picture with its caption."""
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def sheets_part(summary: Summary) -> str:
    """Contact sheets of the prompts that gained and lost most, by the first arm held against the reference."""
    ends = pictures.extremes(summary.comparisons[0]) if summary.comparisons else None
    if not ends:
        return ""
    metric, prompts = ends
    arms = [summary.comparisons[0].reference, *(found.other for found in summary.comparisons)]
    body = ""
    for prompt in prompts:
        body += f"<h3>{html.escape(prompt)}</h3>"
        for arm in arms:
            body += sheet_of(pictures.clip_of(summary.rows, arm, prompt), arm)
    return f"<h2>Clips, most gained to most lost by {html.escape(metric)}</h2>{body}"


def worst_sheets_part(summary: Summary) -> str:
    """Contact sheets of the clips worst and best by what could be measured first, where no arms are compared."""
    if summary.comparisons:
        return ""
    metric, rows = pictures.ends(summary.rows)
    body = "".join(sheet_of(Path(row["clip"]), f"{row['prompt_id']}: {row['value']:.4g}") for row in rows)
    return f"<h2>Clips, best to worst by {html.escape(metric)}</h2>{body}" if body else ""


def sheet_of(clip: Path | None, caption: str) -> str:
    """The contact sheet of a clip; nothing where it cannot be read any more."""
    pixels = pictures.sheet(clip) if clip else None
    if pixels is None:
        return ""
    return figure(f'<img alt="frames of {html.escape(caption)}" src="{pictures.data_uri(pixels)}">', caption)


def curves_part(summary: Summary) -> str:
    """Per-frame curves of the clips with the worst warping error."""
    rows = pictures.worst(summary.rows, "temporal.warp_error")
    charts = "".join(
        figure(drawing.curve(row["per_frame"], str(row["clip"])), f"{row['arm']}: {row['prompt_id']}") for row in rows
    )
    return f'<h2>Worst warping error, frame by frame</h2><div class="charts">{charts}</div>' if charts else ""


def definitions_part(summary: Summary) -> str:
    """What each metric means, from its own definition."""
    names = dict.fromkeys(one.metric for one in summary.standings)
    body = "".join(
        f"<details><summary>{html.escape(arrow(name))}</summary><pre>{html.escape(METRICS[name].about)}\n"
        f"Version: {html.escape(METRICS[name].version)}</pre></details>"
        for name in names
    )
    return f"<h2>Definitions</h2>{body}"


def to_html(summary: Summary, head: str = "") -> str:
    """The whole report; `head` is HTML to show first."""
    header, rows = standing_table(summary)
    kept = filled(header, rows)
    standings = "".join("<tr>" + "".join(cell(row[index]) for index in kept) + "</tr>" for row in rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in (*summary.notes, *unmeasured(summary)))
    failures = "".join(f"<li>{html.escape(clip)}: {html.escape(why)}</li>" for clip, why in summary.failures)
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Evaluation</title><style>{STYLE}</style><h1>Evaluation</h1>"
        + head
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "".join(map(comparison_part, summary.comparisons))
        + sheets_part(summary)
        + worst_sheets_part(summary)
        + curves_part(summary)
        + "<h2>Arms</h2>"
        + table([header[index] for index in kept], standings)
        + (f"<h2>Failed</h2><ul>{failures}</ul>" if failures else "")
        + definitions_part(summary)
        + (f"<h2>How it was compared</h2><p>{html.escape(told)}</p>" if (told := protocol(summary)) else "")
        + f"<h2>Versions</h2><p>{html.escape(versions)}</p></html>\n"
    )
