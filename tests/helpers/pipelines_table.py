"""Write docs/pipelines.md: which pipelines of diffusers are tested, from the cases of the tests."""

import inspect
import re
from pathlib import Path

import diffusers

from tests.helpers.audio_pipelines import AUDIBLE
from tests.helpers.modular_pipelines import CASES as MODULAR
from tests.helpers.modular_pipelines import REFUSED as REFUSED_MODULAR
from tests.helpers.more_pipelines import BROKEN, LONG, MORE_CASES, REFUSED
from tests.helpers.tiny_pipelines import CASES
from vidguide.transformer.family import families, refused

IMAGES_ONLY = {"Cosmos2TextToImagePipeline", "Kandinsky5I2IPipeline", "Kandinsky5T2IPipeline"}
TESTED, MISSING, RELATED, NO_AUDIO = "tested", "not in diffusers", "related", "none"
AUDIO_TESTED = {case.pipeline for case in AUDIBLE} | {"LTX2ModularPipeline"}  # test_audio.py, test_generate_modular.py
OWN_GUIDER = "refused [guider]"
STANDARD = {case.pipeline for case in [*CASES, *MORE_CASES, LONG]}
FORCING = [f"SkyReelsV2DiffusionForcing{kind}Pipeline" for kind in ("", "ImageToVideo", "VideoToVideo")]
NOTED = {  # cells of standard pipelines that are not, or not wholly, supported
    REFUSED.pipeline: "refused [image context]",
    BROKEN.pipeline: "fails in diffusers [argument]",
    **dict.fromkeys(FORCING, f"{TESTED} [forcing]"),
}
REASONS = {
    "argument": "its call, also without vidguide, passes to its `encode_prompt` an argument that it lacks",
    "forcing": "each frame is at a step of its own, so guidances whose effect depends on the step are refused: those "
    "with start, stop or a schedule, EMAG, TPG, CADS and S2Guidance",
    "guider": "its denoiser has inputs for four passes, and takes no guider but its own (LTX2Guidance)",
    "image context": "its transformer's text input is a pair of text and image context",
}

HEAD = """# Pipelines

Generated from the cases of the tests (`tests/helpers/pipelines_table.py`; a test compares), for diffusers 0.42: each of
its pipelines that makes video, at tiny size.

- *guide*, *attach*: a call of the pipeline within `with guide(pipe, ...)`, and with `attach(pipe, ...)`.
- *guider*: `VideoGuidance` of `vidguide.pipelines.guiders` in place of the pipeline's guider.
- *negative of the call*: `NAG()` takes the call's negative prompt. Where the pipeline has no such argument (Echo,
  MiniMax-H3, LTX-2 DFR), it is accepted in the call and not passed on.
- *audio*: `generate` keeps the audio that the pipeline makes (`tests/pipelines/test_audio.py`,
  `test_generate_modular.py`); *related*: by the same declaration as a tested one; *none*: it makes no audio.

Cells:

- *tested*: the pipeline runs in `tests/guiding/test_negative_of_call.py`, `tests/adapters/test_family_pipelines.py` and
  `tests/pipelines/test_encode_prompt.py`, with another guider in `tests/pipelines/test_guiders.py`; a modular one in
  `tests/guiding/test_modular_pipelines.py`, `test_echo.py` and `tests/pipelines/test_guiders.py`.
- *tested [forcing]*: with the limit below.
- *refused*: with the reason below, before anything is changed.
- *fails in diffusers*: the pipeline itself, with the reason below.
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
    """Return the cells of a standard pipeline.

    Raises:
        LookupError: the tests do not run it.
    """
    has_guider = "guider" in inspect.signature(getattr(diffusers, pipeline).__init__).parameters
    if transformer in refused():
        reason = f"refused [{transformer}]"
        return [reason, reason, MISSING, reason, reason]
    if pipeline not in STANDARD and pipeline not in NOTED:
        raise LookupError(f"{pipeline}: no test has a case of it; add one to tests/helpers/more_pipelines.py")
    state = NOTED.get(pipeline, TESTED)
    return [state, state, TESTED if has_guider else MISSING, state, audio_cell(pipeline, transformer)]


def audio_cell(pipeline: str, transformer: str) -> str:
    """Return the cell of the audio that `generate` keeps."""
    if families()[transformer].audio is None:
        return NO_AUDIO
    return TESTED if pipeline in AUDIO_TESTED else RELATED


def modular_rows() -> dict[str, list[str]]:
    """Return the cells of the modular pipelines."""
    rows = {}
    for case in MODULAR:
        has_guider = "guider" in getattr(diffusers, case.pipeline)().components
        guider = TESTED if case.takes_guider else OWN_GUIDER if has_guider else MISSING
        audio = audio_cell(case.pipeline, case.tiny.split("/")[0])
        rows[case.pipeline] = [TESTED, TESTED, guider, TESTED, audio]
    for name in REFUSED_MODULAR:
        pipe = getattr(diffusers, f"{name}ModularPipeline")()
        reason = f"refused [{pipe._component_specs['transformer'].type_hint.__name__}]"
        has_guider = "guider" in pipe.components
        rows[f"{name}ModularPipeline"] = [reason, reason, reason if has_guider else MISSING, reason, reason]
    return rows


def render() -> str:
    """Return the page."""
    standard = {name: standard_row(name, transformer) for name, transformer in standard_pipelines().items()}
    rows = standard | modular_rows()
    lines = ["| pipeline | guide | attach | guider | negative of the call | audio |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(rows[name])} |" for name in sorted(rows)]
    used = {cell.partition("[")[2].rstrip("]") for row in rows.values() for cell in row if "[" in cell}
    listed = [f"- [{name}] {reason}" for name, reason in sorted((REASONS | refused()).items()) if name in used]
    return "\n".join([HEAD, *lines, "", "Reasons and notes:", "", *listed, ""])


if __name__ == "__main__":
    (Path(__file__).parents[2] / "docs" / "pipelines.md").write_text(render())
