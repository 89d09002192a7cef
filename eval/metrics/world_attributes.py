"""Text alignment in the synthetic world of the shipped model: the oracle reads each clip, exactly and without a model.

These are defined only for clips of that world (64x64, prompts in its words). For any other clip they are undefined,
with the reason: the oracle would find no world object in it and call that a miss.
"""

import re
from typing import Any

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import AVOIDANCE_GUARDS, Value, metric
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.world.scene import ATTRIBUTES, HEIGHT, WIDTH, Scene

FILLERS = {"a", "an", "the", "moving", "staying", "on", "background", "object"}
ORACLE: dict[str, Any] = dict(version="oracle/1", low=0.0, high=1.0, min_frames=2)
HOME = {value: attribute for attribute, values in ATTRIBUTES.items() for value in values}


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def asked(prompt: str | None) -> Scene:
    """The scene that a prompt of this world asks for.

    Raises:
        UndefinedError: it has words from outside, names no attribute, or names one twice.
    """
    given = words(prompt or "")
    strange = [word for word in given if word not in HOME and word not in FILLERS]
    if strange:
        raise UndefinedError(f"the eval_prompt is not of the shipped world: {', '.join(strange)}")
    values: dict[str, str] = {}
    for word in (word for word in given if word in HOME):
        if values.setdefault(HOME[word], word) != word:
            raise UndefinedError(f"the eval_prompt names two values of {HOME[word]}: {values[HOME[word]]} and {word}")
    if not values:
        raise UndefinedError("the eval_prompt names no attribute of the shipped world")
    return Scene(**values)


def avoided(negative_prompt: str | None) -> list[tuple[str, str]]:
    """(attribute, value) of each word of the world in a negative prompt; words from outside are passed over.

    Raises:
        UndefinedError: there is none.
    """
    named = [(HOME[word], word) for word in words(negative_prompt or "") if word in HOME]
    if not named:
        raise UndefinedError("the negative_prompt names no attribute of the shipped world")
    return named


def check_world(sample: Sample) -> Scene:
    """What was asked for, where the clip is of this world at all."""
    scene = asked(sample.eval_prompt)
    height, width = sample.clip.frames.shape[1:3]
    if (height, width) != (HEIGHT, WIDTH):
        raise UndefinedError(f"frames of {width}x{height}; the oracle reads {WIDTH}x{HEIGHT}: score the lossless clip")
    return scene


@metric(id="world.attributes", **ORACLE, unit="share of attributes", better="higher", needs=("eval_prompt",))
def attributes(sample: Sample) -> Value:
    """Share of the attributes named in the eval_prompt that the oracle reads in the clip.

    Direction: higher is better. Range: 0 to 1. Unit: share of named attributes (size, colour, shape, motion,
    background). Fooled by: nothing known within the world; a distorted shape still has a colour, so look at
    world.well_formed too. Source: own; rendering and reading are both exact, see vidguide.eval.world.oracle.
    """
    scene, seen = check_world(sample), sample.reading
    hits = {name: float(seen.matches(scene, name)) for name in ATTRIBUTES if getattr(scene, name) is not None}
    return Value(value=sum(hits.values()) / len(hits), details={"asked": vars(scene), "seen": vars(seen.scene)})


@metric(
    id="world.well_formed",
    **ORACLE,
    unit="0 or 1",
    better="higher",
    needs=("eval_prompt",),
    guards=AVOIDANCE_GUARDS[1:2],
)
def well_formed(sample: Sample) -> Value:
    """Whether every frame shows exactly one undistorted shape, the same in all, on a clean background.

    Direction: higher is better. Range: 0 or 1. Unit: share of clips, once averaged. Fooled by: the wrong object, well
    drawn, counts. Source: own, see vidguide.eval.world.oracle.
    """
    check_world(sample)
    return Value(value=float(sample.reading.well_formed), details={"fit": sample.reading.fit})


@metric(
    id="world.negative_present",
    **ORACLE,
    unit="share of avoided attributes",
    better="lower",
    needs=("eval_prompt", "negative_prompt"),
    guards=AVOIDANCE_GUARDS,
)
def negative_present(sample: Sample) -> Value:
    """Share of the attributes named in the negative_prompt that the oracle still reads in the clip.

    Direction: lower is better. Range: 0 to 1. Unit: share of named attributes. Fooled by: a destroyed picture has no
    attribute left, hence the guards world.well_formed and world.attributes. Source: own.
    """
    check_world(sample)
    named = avoided(sample.negative_prompt)
    seen = sample.reading.scene
    return Value(value=sum(getattr(seen, name) == value for name, value in named) / len(named))


@metric(id="world.negative_avoided", **ORACLE, unit="0 or 1", better="higher", needs=("eval_prompt", "negative_prompt"))
def negative_avoided(sample: Sample) -> Value:
    """Whether the clip is well-formed and shows nothing that the negative_prompt names.

    Direction: higher is better. Range: 0 or 1. Unit: share of clips, once averaged. Not to be had by destroying the
    picture. Fooled by: ignoring the prompt altogether; look at world.attributes. Source: own.
    """
    absent = negative_present(sample).value == 0
    return Value(value=float(absent and sample.reading.well_formed))


def register_attribute(name: str) -> None:
    """One metric per attribute, so that arms can be compared on colour alone."""

    def measure(sample: Sample) -> Value:
        scene, seen = check_world(sample), sample.reading
        if getattr(scene, name) is None:
            raise UndefinedError(f"the eval_prompt does not name a {name}")
        details = {"asked": getattr(scene, name), "seen": getattr(seen.scene, name)}
        return Value(value=float(seen.matches(scene, name)), details=details)

    measure.__doc__ = (
        f"Whether the oracle reads the {name} that the eval_prompt names.\n\n"
        "Direction: higher is better. Range: 0 or 1. Unit: share of clips, once averaged. Fooled by: as "
        "world.attributes. Source: own, see vidguide.eval.world.oracle."
    )
    metric(id=f"world.{name}", **ORACLE, unit="0 or 1", better="higher", needs=("eval_prompt",))(measure)


for _attribute in ATTRIBUTES:
    register_attribute(_attribute)
