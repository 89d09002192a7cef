"""Run the short benchmarks and compare their ratios with the committed results: `make bench`.

    python benchmarks/regressions.py [--limit 900] [--output FOLDER] [--only nag_cost ...]

Each script in `SCRIPTS` runs with `--short`, one after another, and writes its ratios (median, lowest and highest of
the rounds) to a temporary folder. A ratio is worse if its median exceeds the committed highest value and its lowest
value the committed median: beyond the range of either measurement. Exits with 1 if one is worse, or if time runs out.
Absolute times are not compared; ratios of interleaved arms hardly depend on the machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reporting import RESULTS, Summary, table

SCRIPTS = ("formulas", "nag_cost", "emag_cost")
Ratios = Mapping[str, Mapping[str, Summary]]  # by case and arm


def read_ratios(path: Path) -> Ratios:
    """Return the ratios of a result; empty if the file or its ratios are missing."""
    data: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    cases = data.get("ratios", {}).items()
    return {case: {arm: Summary(*values) for arm, values in arms.items()} for case, arms in cases}


def is_worse(measured: Summary, committed: Summary) -> bool:
    """Return whether a ratio is above the committed one, by more than the ranges of both."""
    return measured.median > committed.high and measured.low > committed.median


def compare(measured: Ratios, committed: Ratios) -> list[dict[str, str]]:
    """Return a row for each ratio with both values and a verdict: worse, equal, or new where none was committed."""
    rows = []
    for case, arms in measured.items():
        for arm, value in arms.items():
            before = committed.get(case, {}).get(arm)
            verdict = "new" if before is None else "worse" if is_worse(value, before) else "equal"
            texts = {"committed": "-" if before is None else before.text, "measured": value.text}
            rows.append({"case": case, "arm": arm, **texts, "verdict": verdict})
    return rows


def run_script(name: str, folder: Path, seconds: float) -> None:
    """Run a benchmark in its short form.

    Raises:
        subprocess.SubprocessError: it failed, or took longer.
    """
    command = [sys.executable, str(Path(__file__).parent / f"{name}.py"), "--short", "--output", str(folder)]
    subprocess.run(command, check=True, timeout=max(seconds, 1), stdout=subprocess.DEVNULL)


def run(names: Sequence[str], folder: Path, limit: float) -> list[dict[str, str]]:
    """Run benchmarks within a time limit in seconds; return the rows of all."""
    rows, begin = [], time.monotonic()
    for name in names:
        run_script(name, folder, limit - (time.monotonic() - begin))
        rows += compare(read_ratios(folder / f"{name}.json"), read_ratios(RESULTS / f"{name}.json"))
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return rows


def main() -> None:
    """Run, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=900, help="seconds for all scripts")
    parser.add_argument("--output", type=Path, help="folder of the new results; a temporary one by default")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            rows = run(arguments.only, arguments.output or Path(temporary), arguments.limit)
        except subprocess.SubprocessError as error:
            sys.exit(f"{error}")
    print(table(rows))
    worse = [row for row in rows if row["verdict"] == "worse"]
    sys.exit(f"{len(worse)} of {len(rows)} ratios are worse" if worse else 0)


if __name__ == "__main__":
    main()
