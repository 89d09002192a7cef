"""Writes a table of features and families from what `test_every_feature` recorded."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from tests.helpers.common_pipelines import SUBJECTS
from tests.helpers.pipeline_features import FEATURES

FAMILIES = list(SUBJECTS)

HEAD = """# What vidguide goes with

Made by `pytest -m slow tests/test_compatibility.py --table FILE`, and the list of what bad input is told by
`pytest tests/guiding --table FILE`, not by hand, with diffusers {diffusers} and
torch {torch} on a CPU. Every cell is a test: a pipeline of the family at tiny size, with the feature of the row and its
own classifier-free guidance on, is sampled three times under the guidance.

- *equal*: each time the same as the guided pipeline without the feature, within the feature's own tolerance (2e-5 on
  latents of size 1; for a cache ten times what it changes in the unguided pipeline, or a hundredth of what the
  guidance does), and when the guidance is left the pipeline is bitwise as before.
- *refused*: an error before the first step is done, which says why and what to do; the messages are below.
- *not in diffusers*: the unguided pipeline does not work with it either.

"""
BAD = """
## What bad input is told

Before the first step, by `tests/guiding/test_guide.py` and `tests/guiding/test_guide_in_programs.py`:

"""
REST = """
## Beside the table

- Several pipelines in one process, nested and crosswise, two threads, callbacks, interrupts, errors and Ctrl-C at any
  call, a LoRA loaded, scaled, fused and unloaded between calls: `tests/guiding/test_guide_in_programs.py`, every
  family of the table.
- What caches make of NAG and of weak passes, against models in whose processors the guidance is written out:
  `tests/transformer/test_caches.py`. GGUF weights, int8 ones of torchao, 4- and 8-bit linears of bitsandbytes
  where these are installed (by hand: diffusers' `BitsAndBytesConfig` refuses a machine without a GPU):
  `tests/guiding/test_quantization.py`.
- Compilations of the whole model in the first run: NAG 1, STG 2, EMAG 4 and one for each layer that it comes to
  perturb; with `compile_repeated_blocks` at most 1, 2 and 4. None in the next run:
  `tests/transformer/test_compile.py`. Where that may be more than torch makes (`torch._dynamo.config.recompile_limit`,
  8), as with the five candidates of 40 blocks, EMAG warns: compile the blocks, name fewer `layers`, or raise the limit.
- Modular pipelines of Wan 2.1, Wan 2.2 and LTX take `NAGGuidance` and `EMAGGuidance` of
  `vidguide.pipelines.diffusers_guiders` by `pipe.update_components(guider=NAGGuidance())`;
  `guide` works around them too, with ready embeddings: `tests/pipelines/test_diffusers_guiders.py`.
- Context parallel (`enable_parallelism`), two processes over gloo, equal to one process to 1e-6: Wan with every
  guidance under Ulysses, with NAG and EMAG in a ring; LTX without a text mask, with NAG, VSF, EMAG, CFG and CADS
  under Ulysses and NAG in a ring: `tests/transformer/test_context_parallel.py`, most of it marked slow. A negative's
  keys and values are made on every rank and attended to there, without an exchange; NAG's norms by frame and clip,
  SEG's blur and the profile of the heads gather what they are taken over, and EMAG's D is a mean over all ranks, so
  that they choose the same layer. diffusers itself needs help there: it divides by the number of accelerators, and
  its native attention tells the ring no log-sum-exp; the test stands in for both. `run.trace` is of a rank's own
  tokens. Refused: `EMAG(variant="map")`, and joint attention, for which diffusers has no plan, and tensor parallel,
  where a rank has some of the heads. LTX with a mask fails under Ulysses in diffusers 0.42.1, unguided too (the mask
  is not split by heads). Untested: two GPUs (a test marked `gpu2` is there, for Ulysses), `ulysses_anything` and
  `ring_anything` (gloo gathers no shares of two sizes), rings and Ulysses at once, Helios, LTX-2.
- Not tried: group offload with streams, attention backends that need a GPU.
"""


def written(cells: list[list[str]], refusals: list[str]) -> str:
    """The table, the messages that it refers to, and those that bad input gets."""
    features, families = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
    notes: dict[str, int] = {}
    lines = [f"| feature | {' | '.join(families)} |", f"|---|{'---|' * len(families)}"]
    for feature in features:
        row = [described([c for c in cells if c[:2] == [feature, family]], notes) for family in families]
        lines.append(f"| {feature} | {' | '.join(row)} |")
    head = HEAD.format(diffusers=diffusers.__version__, torch=torch.__version__.split("+")[0])
    told = "\n".join(f"- `{' '.join(message.split())}`" for message in refusals)
    listed = "\n".join(f"{number}. {note}" for note, number in notes.items())
    missing = [feature for feature in FEATURES if feature not in features]
    tail = f"\nNot run for this table: {', '.join(missing)}.\n" if missing else ""
    return f"{head}{chr(10).join(lines)}\n{tail}\n## What the refusals say\n\n{listed}\n{BAD}{told}\n{REST}"


def described(cells: list[list[str]], notes: dict[str, int]) -> str:
    """One cell: its outcome, or one for each group of methods."""
    groups: dict[str, list[str]] = {}
    for _, _, method, kind, detail in cells:
        text = kind if not detail else f"{kind} [{notes.setdefault(f'`{detail}`', len(notes) + 1)}]"
        groups.setdefault(text, []).append(method)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{', '.join(methods)}: {text}" for text, methods in groups.items())


class Recorder:
    """Keeps the cells that tests record and, when all have passed, writes them into the table among those it has.

    They lie beside it as JSON, so that a run of some features (`-k`) renews these and leaves the others. Messages that
    bad input gets are renewed by a run of the tests that record any, all of them at once.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.kept = path, path.with_suffix(".json")
        self.cells: dict[tuple[str, ...], list[str]] = {}
        self.refusals: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            for name, cell in report.user_properties:
                if name == "cell":
                    self.cells[tuple(cell[:3])] = list(cell)
                elif name == "refusal":
                    self.refusals.append(cell)

    def pytest_sessionfinish(self, session: Any, exitstatus: int) -> None:
        if exitstatus == 0 and (self.cells or self.refusals):
            before = json.loads(self.kept.read_text()) if self.kept.exists() else {"cells": [], "refusals": []}
            cells = {tuple(cell[:3]): cell for cell in before["cells"]} | self.cells
            ordered = sorted(cells.values(), key=lambda cell: (list(FEATURES).index(cell[0]), FAMILIES.index(cell[1])))
            refusals = list(dict.fromkeys(self.refusals)) or before["refusals"]
            self.kept.write_text(json.dumps({"cells": ordered, "refusals": refusals}, indent=0) + "\n")
            self.path.write_text(written(ordered, refusals))
