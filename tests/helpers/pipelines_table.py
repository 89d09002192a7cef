"""Write docs/pipelines.md: which pipelines of diffusers are tested, from the cases of the tests."""

import inspect
import re
from pathlib import Path

import diffusers

from tests.helpers.modular_pipelines import CASES as MODULAR
from tests.helpers.modular_pipelines import REFUSED as REFUSED_MODULAR
from tests.helpers.tiny_pipelines import CASES
from vidguide.transformer.family import families, refused

IMAGES_ONLY = {"Cosmos2TextToImagePipeline", "Kandinsky5I2IPipeline", "Kandinsky5T2IPipeline"}
TESTED, RELATED, MISSING = "tested", "related", "not in diffusers"
OWN_GUIDER = "refused [guider]"
WITH_GUIDER = (
    "HunyuanVideo15Pipeline",
    "MotifVideoPipeline",
)  # of the standard ones, in tests/pipelines/test_guiders.py

HEAD = """# Pipelines

Generated from the cases of the tests (`tests/helpers/pipelines_table.py`; a test compares), for diffusers 0.42: each of
its pipelines that makes video, at tiny size.

- *guide*, *attach*: a call of the pipeline within `with guide(pipe, ...)`, and with `attach(pipe, ...)`.
- *guider*: `VideoGuidance` of `vidguide.pipelines.guiders` in place of the pipeline's guider.
- *negative of the call*: `NAG()` takes the call's negative prompt. Where the pipeline has no such argument (Echo,
  MiniMax-H3, LTX-2 DFR), it is accepted in the call and not passed on.

Cells:

- *tested*: the pipeline runs in `tests/guiding/test_negative_of_call.py` and `tests/adapters/test_family_pipelines.py`;
  modular pipelines in `tests/guiding/test_modular_pipelines.py`, `test_echo.py` and `tests/pipelines/test_guiders.py`.
- *related*: the pipeline does not run in a test. Another one with this transformer does, and a stub with the signature
  of its `encode_prompt` gets the negative prompt (`tests/adapters/test_families.py`).
- *refused*: with the reason below, before anything is changed.
- *not in diffusers*: the pipeline has no guider.

`SanaWMLTX2Refiner`, which refines the latents of `SanaWMPipeline`, is a pipeline too, and guided by another `guide`. It
is tested in `tests/adapters/test_cached_families.py`, with negatives in words and embeddings, of guidance and call.

Modular pipelines take a negative prompt in words through their own `text_encoder` block; one that is run without that
block takes embeddings, under the names of its state (`negative_prompt_embeds`, for LTX-2 and Echo
`negative_connector_prompt_embeds` and so on). A `PipelineState` that holds a negative prompt counts as the call's.
In diffusers 0.42 the text encoders of Wan and HunyuanVideo 1.5 fail when the guider has one condition
(`guidance_scale=1`), with and without vidguide: `VideoGuidance([NAG()])` has two, and encodes both texts.
"""


def transformer_of(pipeline: str) -> str | None:
    """Return the class name of a standard pipeline's video transformer; None if it has none that is known."""
    parameters = inspect.signature(getattr(diffusers, pipeline).__init__).parameters
    if "transformer" not in parameters:
        return None
    names = re.findall(r"\w+", str(parameters["transformer"].annotation))
    return next((name for name in names if name in families() or name in refused()), None)


def standard_pipelines() -> dict[str, str]:
    """Return the transformer's class name of each standard pipeline that makes video."""
    names = [name for name in dir(diffusers) if name.endswith("Pipeline") and "Modular" not in name]
    transformers = {name: transformer_of(name) for name in names if name not in IMAGES_ONLY}
    return {name: transformer for name, transformer in transformers.items() if transformer is not None}


def standard_row(pipeline: str, transformer: str) -> list[str]:
    """Return the cells of a standard pipeline."""
    has_guider = "guider" in inspect.signature(getattr(diffusers, pipeline).__init__).parameters
    if transformer in refused():
        return [f"refused [{transformer}]"] * 2 + [MISSING, f"refused [{transformer}]"]
    state = TESTED if pipeline in {case.pipeline for case in CASES} else RELATED
    guider = (TESTED if pipeline in WITH_GUIDER else RELATED) if has_guider else MISSING
    return [state, state, guider, state]


def modular_rows() -> dict[str, list[str]]:
    """Return the cells of the modular pipelines."""
    rows = {}
    for case in MODULAR:
        has_guider = "guider" in getattr(diffusers, case.pipeline)().components
        guider = TESTED if case.takes_guider else OWN_GUIDER if has_guider else MISSING
        rows[case.pipeline] = [TESTED, TESTED, guider, TESTED]
    for name in REFUSED_MODULAR:
        pipe = getattr(diffusers, f"{name}ModularPipeline")()
        reason = f"refused [{pipe._component_specs['transformer'].type_hint.__name__}]"
        has_guider = "guider" in pipe.components
        rows[f"{name}ModularPipeline"] = [reason, reason, reason if has_guider else MISSING, reason]
    return rows


def render() -> str:
    """Return the page."""
    standard = {name: standard_row(name, transformer) for name, transformer in standard_pipelines().items()}
    rows = standard | modular_rows()
    lines = ["| pipeline | guide | attach | guider | negative of the call |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(rows[name])} |" for name in sorted(rows)]
    used = {cell.partition("[")[2].rstrip("]") for row in rows.values() for cell in row if "[" in cell}
    reasons = {"guider": "its denoiser has inputs for four passes, and takes no guider but its own (LTX2Guidance)"}
    listed = [f"- [{name}] {reason}" for name, reason in sorted((reasons | refused()).items()) if name in used]
    return "\n".join([HEAD, *lines, "", "Reasons:", "", *listed, ""])


if __name__ == "__main__":
    (Path(__file__).parents[2] / "docs" / "pipelines.md").write_text(render())
