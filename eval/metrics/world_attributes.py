"""Text alignment in the synthetic world of the shipped models: the oracle reads each clip, exactly and without a model.

The metrics are defined only for clips of that world (64x64, prompts in its vocabulary). For any other clip they are
undefined, with a reason: the oracle would find no object in it and count that as a miss.
"""

import re
from functools import partial
from typing import Any

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import AVOIDANCE_GUARDS, PROMPT_FOLLOWED, Value, metric
from vidguide.eval.metrics.sample import Sample
from vidguide.eval.world.ideal import defects, nearest_rendering
from vidguide.eval.world.scene import ATTRIBUTES, HEIGHT, WIDTH, Scene

FILLERS = {"a", "an", "the", "moving", "staying", "on", "background", "object"}
ORACLE: dict[str, Any] = dict(version="oracle/1", low=0.0, high=1.0, min_frames=2)
ATTRIBUTE_OF = {value: attribute for attribute, values in ATTRIBUTES.items() for value in values}


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def requested_scene(prompt: str | None) -> Scene:
    """Return the scene that a prompt of the synthetic world describes.

    Raises:
        UndefinedError: the prompt has unknown words, names no attribute, or names two values of one.
    """
    words = split_words(prompt or "")
    unknown = [word for word in words if word not in ATTRIBUTE_OF and word not in FILLERS]
    if unknown:
        raise UndefinedError(f"the eval_prompt is not of the shipped world: {', '.join(unknown)}")
    values: dict[str, str] = {}
    for word in (word for word in words if word in ATTRIBUTE_OF):
        attribute = ATTRIBUTE_OF[word]
        if values.setdefault(attribute, word) != word:
            raise UndefinedError(f"the eval_prompt names two values of {attribute}: {values[attribute]} and {word}")
    if not values:
        raise UndefinedError("the eval_prompt names no attribute of the shipped world")
    return Scene(**values)


def negative_attributes(negative_prompt: str | None) -> list[tuple[str, str]]:
    """Return (attribute, value) of each word of the world in a negative prompt; other words are ignored.

    Raises:
        UndefinedError: there is none.
    """
    named = [(ATTRIBUTE_OF[word], word) for word in split_words(negative_prompt or "") if word in ATTRIBUTE_OF]
    if not named:
        raise UndefinedError("the negative_prompt names no attribute of the shipped world")
    return named


def check_world(sample: Sample) -> Scene:
    """Return the requested scene.

    Raises:
        UndefinedError: prompt or frame size is not of the synthetic world.
    """
    scene = requested_scene(sample.eval_prompt)
    height, width = sample.clip.frames.shape[1:3]
    if (height, width) != (HEIGHT, WIDTH):
        raise UndefinedError(f"frames of {width}x{height}; the oracle reads {WIDTH}x{HEIGHT}: score the lossless clip")
    return scene


@metric(id="world.attributes", **ORACLE, unit="share of attributes", better="higher", needs=("eval_prompt",))
def attributes(sample: Sample) -> Value:
    """Measure the share of the attributes named in the eval_prompt that the oracle reads in the clip.

    Direction: higher is better. Range: 0 to 1. Unit: share of named attributes (size, colour, shape, motion,
    background). Fooled by: nothing known within the world; a distorted shape still has a colour, so check
    world.well_formed too. Source: specific to vidguide; rendering and reading are exact, see
    vidguide.eval.world.oracle.
    """
    scene, reading = check_world(sample), sample.reading
    matches = {name: float(reading.matches(scene, name)) for name in ATTRIBUTES if getattr(scene, name) is not None}
    details = {"asked": vars(scene), "seen": vars(reading.scene)}
    return Value(value=sum(matches.values()) / len(matches), details=details)


@metric(
    id="world.well_formed",
    **ORACLE,
    unit="0 or 1",
    better="higher",
    needs=("eval_prompt",),
    guards=(PROMPT_FOLLOWED,),
)
def well_formed(sample: Sample) -> Value:
    """Measure whether every frame shows exactly one undistorted shape, the same in all, on a clean background.

    Direction: higher is better. Range: 0 or 1. Unit: share of clips, once averaged. Fooled by: a wrong object that is
    drawn well. Source: specific to vidguide, see vidguide.eval.world.oracle.
    """
    check_world(sample)
    return Value(value=float(sample.reading.well_formed), details={"fit": sample.reading.fit})


@metric(id="world.readable", **ORACLE, unit="share of attributes", better="higher", needs=("eval_prompt",))
def readable(sample: Sample) -> Value:
    """Measure the share of the five attributes for which the oracle reads any value.

    Direction: higher is better. Range: 0 to 1. Unit: share of size, colour, shape, motion and background. A colour
    between those of the palette, as in a pale or grey clip, is not readable. Fooled by: wrong values that are readable.
    Source: specific to vidguide, see vidguide.eval.world.oracle.
    """
    check_world(sample)
    values = vars(sample.reading.scene).values()
    return Value(value=sum(value is not None for value in values) / len(ATTRIBUTES))


@metric(
    id="world.in_world",
    **ORACLE,
    unit="0 or 1",
    better="higher",
    needs=("eval_prompt",),
    guards=(PROMPT_FOLLOWED,),
)
def in_world(sample: Sample) -> Value:
    """Measure whether the clip is well-formed and the oracle reads all five attributes.

    Direction: higher is better. Range: 0 or 1. Unit: share of clips, once averaged. A well-drawn shape of a colour
    outside the palette is well-formed, but not of this world. Fooled by: a wrong object that is drawn well. Source:
    specific to vidguide, see vidguide.eval.world.oracle.
    """
    check_world(sample)
    return Value(value=float(sample.reading.in_world), details={"seen": vars(sample.reading.scene)})


@metric(
    id="world.worst_fit",
    **ORACLE,
    unit="overlap",
    better="higher",
    needs=("eval_prompt",),
    guards=(PROMPT_FOLLOWED,),
)
def worst_fit(sample: Sample) -> Value:
    """Measure the overlap of the object with the best exact shape, in the worst frame.

    Direction: higher is better. Range: 0 to 1; renderings have more than 0.9. Unit: soft intersection over union. The
    details hold the mean over frames. Fooled by: a wrong shape that is drawn well, and one that changes between frames
    without losing its form. Source: specific to vidguide, see vidguide.eval.world.oracle.
    """
    check_world(sample)
    return Value(value=sample.reading.worst_fit, details={"mean": sample.reading.fit})


@metric(
    id="world.ideal_distance",
    version="renderer/1",
    unit="levels (0..255), root mean square",
    low=0.0,
    high=255.0,
    better="lower",
    min_frames=2,
    needs=("eval_prompt",),
    guards=(PROMPT_FOLLOWED,),
)
def ideal_distance(sample: Sample) -> Value:
    """Measure the distance of the clip to the nearest clip that the renderer of the world can draw.

    Direction: lower is better. Range: 0 to 255; a rendering has less than 1. Unit: levels, root mean square over pixels
    and frames. The nearest rendering is sought over all attributes, positions and speeds, so that a perfect drawing of
    a wrong object has 0 too: hence the guard world.attributes. The details name it, and hold the defects of the clip
    for the distance between sets. Fooled by: nothing known within the world; a small defect of a small object is a
    small share of the pixels. Source: specific to vidguide, see vidguide.eval.world.ideal.
    """
    check_world(sample)
    nearest = nearest_rendering(sample.clip.frames)
    details = {"nearest": vars(nearest.scene), "defects": defects(sample.clip.frames).round(6).tolist()}
    return Value(value=nearest.distance, details=details)


@metric(
    id="world.negative_present",
    **ORACLE,
    unit="share of avoided attributes",
    better="lower",
    needs=("eval_prompt", "negative_prompt"),
    guards=AVOIDANCE_GUARDS,
)
def negative_present(sample: Sample) -> Value:
    """Measure the share of the attributes named in the negative_prompt that the oracle still reads in the clip.

    Direction: lower is better. Range: 0 to 1. Unit: share of named attributes. Fooled by: a destroyed picture has no
    attributes, and a pale one no colour, hence the guards world.well_formed, world.readable and world.attributes.
    Source: specific to vidguide.
    """
    check_world(sample)
    named = negative_attributes(sample.negative_prompt)
    scene = sample.reading.scene
    return Value(value=sum(getattr(scene, name) == value for name, value in named) / len(named))


@metric(id="world.negative_avoided", **ORACLE, unit="0 or 1", better="higher", needs=("eval_prompt", "negative_prompt"))
def negative_avoided(sample: Sample) -> Value:
    """Measure whether the clip is well-formed and shows nothing that the negative_prompt names.

    Direction: higher is better. Range: 0 or 1. Unit: share of clips, once averaged. A destroyed picture has 0.
    Fooled by: a clip that ignores the prompt altogether; check world.attributes. Source: specific to vidguide.
    """
    absent = negative_present(sample).value == 0
    return Value(value=float(absent and sample.reading.well_formed))


def measure_attribute(name: str, sample: Sample) -> Value:
    """Measure whether the oracle reads the value of one attribute that the eval_prompt names."""
    scene, reading = check_world(sample), sample.reading
    if getattr(scene, name) is None:
        raise UndefinedError(f"the eval_prompt does not name a {name}")
    details = {"asked": getattr(scene, name), "seen": getattr(reading.scene, name)}
    return Value(value=float(reading.matches(scene, name)), details=details)


def register_attribute(name: str) -> None:
    """Register the metric of one attribute, so that arms can be compared on colour alone."""
    measure = partial(measure_attribute, name)  # which can be pickled, for workers in other processes
    measure.__doc__ = (
        f"Measure whether the oracle reads the {name} that the eval_prompt names.\n\n"
        "Direction: higher is better. Range: 0 or 1. Unit: share of clips, once averaged. Fooled by: as "
        "world.attributes. Source: specific to vidguide, see vidguide.eval.world.oracle."
    )
    metric(id=f"world.{name}", **ORACLE, unit="0 or 1", better="higher", needs=("eval_prompt",))(measure)


for _attribute in ATTRIBUTES:
    register_attribute(_attribute)
