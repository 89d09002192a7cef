"""The settings that a calibration compares: each guidance in each layer, EMAG with several decays and averages."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from vidguide.guidances.base import Guidance
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.guidances.direction_probe import neutral_scale
from vidguide.guidances.emag import EMAG
from vidguide.guidances.pag import PAG
from vidguide.guidances.s2_guidance import S2Guidance
from vidguide.guidances.seg import SEG
from vidguide.guidances.stg import STG
from vidguide.guidances.tpg import TPG
from vidguide.guiding.guide import guide
from vidguide.pipelines.request.guidance_spec import name_of, text_of

DECAYS: tuple[float | str, ...] = (0.5, "auto")
MAP_TOKENS = 2048  # of the video, above which attention maps are compared only if they are named
NOT_COMPARED = ("scale", "start", "stop", "rescale", "negative_prompt", "negative_prompt_embeds")
COMPARED = ("variant", "decay", "mode")  # in every spec, whatever the defaults are
PER_LAYER = (PAG, SEG, STG, TPG)


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One setting.

    Attributes:
        guidance: with its layers. group: its setting without layers, as a spec. layers: "3", "all", or "-" where the
            guidance has none.
    """

    guidance: Guidance
    group: str
    layers: str

    @property
    def spec(self) -> str:
        """The setting as a spec, without its scale."""
        return spec_of(self.guidance, ())


def defaults(tokens: int) -> list[Guidance]:
    """Return the guidances that are compared by default, for a video of so many tokens."""
    variants = ("query", "map") if tokens <= MAP_TOKENS else ("query",)
    emags = [EMAG(variant=variant, decay=decay) for variant in variants for decay in DECAYS]
    others = [PAG(), SEG(), STG(mode="residual"), STG(mode="attention"), TPG(), S2Guidance(), CFG(negative_prompt="")]
    return [*emags, *others]


def fitting(pipe: Any, guidances: Sequence[Guidance]) -> tuple[list[Guidance], list[str]]:
    """Return the guidances that a pipeline allows, and for each of the others why it is left out."""
    fit, notes = [], []
    for guidance in guidances:
        try:
            with guide(pipe, guidance):
                fit.append(guidance)
        except (ValueError, TypeError, LookupError) as error:
            notes.append(f"{spec_of(guidance, ())}: left out: {error}")
    return fit, notes


def candidates(guidances: Sequence[Guidance], depth: int, layers: Sequence[int] | None = None) -> list[Candidate]:
    """Return the settings to compare: guidances without layers in each layer, EMAG in several of them at once as well.

    Args:
        guidances: to compare. depth: number of the model's blocks. layers: to compare; None for all.

    Raises:
        ValueError: a layer that the model lacks, or a setting that is given twice. TypeError: a guidance without a
            direction.
    """
    chosen = tuple(range(depth)) if layers is None else tuple(layers)
    if not chosen or not set(chosen) <= set(range(depth)):
        raise ValueError(f"layers={chosen}: the model's blocks are 0 to {depth - 1}")
    settings = [candidate for guidance in guidances for candidate in expand(guidance, chosen)]
    specs = [candidate.spec for candidate in settings]
    twice = next((spec for spec in specs if specs.count(spec) > 1), None)
    if twice is not None:
        raise ValueError(f"guidance: {twice} is given twice")
    return settings


def expand(guidance: Guidance, layers: tuple[int, ...]) -> Iterator[Candidate]:
    """Yield a guidance in each layer; as it is, where it names its layers or has none."""
    neutral_scale(guidance)
    group = spec_of(guidance, ("layers", "select"))
    if isinstance(guidance, EMAG) and guidance.layers is None and not isinstance(guidance.select, tuple):
        for layer in layers:
            yield Candidate(dataclasses.replace(guidance, select=(layer,)), group, str(layer))
        if len(layers) > 1:
            yield Candidate(dataclasses.replace(guidance, select=layers), group, "all")
    elif isinstance(guidance, PER_LAYER) and guidance.layers is None:
        for layer in layers:
            yield Candidate(dataclasses.replace(guidance, layers=(layer,)), group, str(layer))
    else:
        yield Candidate(guidance, group, layers_of(guidance))


def layers_of(guidance: Guidance) -> str:
    """Return the layers that a guidance names, "-" for none."""
    selected = getattr(guidance, "select", None)
    named = selected if isinstance(selected, tuple) else guidance.layers
    return "-" if named is None else "/".join(map(str, named))


def parameters_of(guidance: Guidance, left_out: Sequence[str] = ()) -> dict[str, Any]:
    """Return the parameters of a guidance that are compared, or differ from its defaults; no scale and no window."""
    fields = {field.name: field for field in dataclasses.fields(guidance)}
    names = [*(name for name in COMPARED if name in fields), *(name for name in fields if name not in COMPARED)]
    values = {name: getattr(guidance, name) for name in names if name not in (*NOT_COMPARED, *left_out)}
    return {
        name: value
        for name, value in values.items()
        if (name in COMPARED and value is not None) or value != fields[name].default
    }


def spec_of(guidance: Guidance, left_out: Sequence[str]) -> str:
    """Return a guidance as a spec, without its scale and window."""
    texts = [f"{name}={text_of(value)}" for name, value in parameters_of(guidance, left_out).items()]
    return name_of(guidance) + (":" + ",".join(texts) if texts else "")
