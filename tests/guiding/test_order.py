"""The order of the guidances in the list changes no bit of the predictions."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers.sampling import cogvideox, sample
from tests.helpers.tiny_families import BY_NAME, noise
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from vidguide import CADS, CFG, EMAG, NAG, PAG, SEG, STG, TPG, EnhanceAVideo, S2Guidance
from vidguide.guidances.base import Guidance

MAKERS: dict[str, Callable[[Any], Guidance]] = {
    "CADS": lambda negative: CADS(full=0.3, none=0.9),
    "CFG": lambda negative: CFG(scale=3.0, negative_prompt_embeds=negative),
    "EMAG": lambda negative: EMAG(scale=4.0, decay=0.5, select=(1,), start=0.0, stop=1.0),
    "EnhanceAVideo": lambda negative: EnhanceAVideo(weight=4.0),
    "NAG": lambda negative: NAG(negative_prompt_embeds=negative, scale=5.0),
    "PAG": lambda negative: PAG(scale=2.1, layers=(1,)),
    "S2": lambda negative: S2Guidance(scale=1.3, layers=(1,)),
    "SEG": lambda negative: SEG(scale=1.7, layers=(1,)),
    "STG": lambda negative: STG(scale=0.9, mode="attention", layers=(0,)),
    "TPG": lambda negative: TPG(scale=0.7, layers=(2,)),
}
ADDED = ("PAG", "S2", "SEG", "STG", "TPG")
STEPS = 2


def drawn_sets() -> list[tuple[str, ...]]:
    """Return the corrections that are added up, and drawn sets of at least three of them with others."""
    draw = random.Random(17)
    others = sorted(set(MAKERS) - set(ADDED))
    sets = [(*draw.sample(ADDED, 3 + n % 3), *draw.sample(others, n % 4)) for n in range(5)]
    return [ADDED, *sets]


def predictions(family: str, names: tuple[str, ...]) -> torch.Tensor:
    """Return the predictions of a run under guidances in this order."""
    negative: Any
    if family == "Wan":
        model, negative = tiny_wan(), negative_text()
        calls = [wan_inputs(seed=step) for step in range(STEPS)]
    else:
        tiny = BY_NAME["CogVideoXTransformer3DModel/rotary"]
        model, negative = cogvideox(), tiny.negative()
        calls = [{**tiny.inputs(2), "hidden_states": noise(2, 2, 4, 8, 6, seed=50 + step)} for step in range(STEPS)]
    with torch.no_grad():
        return torch.stack(sample(model, calls, *(MAKERS[name](negative) for name in names))[0])


@pytest.mark.parametrize("family", ["Wan", "CogVideoX"])
@pytest.mark.parametrize("names", drawn_sets(), ids="+".join)
def test_every_order_gives_the_same_bits(family: str, names: tuple[str, ...]) -> None:
    orders = list(itertools.permutations(names))
    first = predictions(family, orders[0])
    for order in random.Random(family).sample(orders[1:], 3):
        assert torch.equal(predictions(family, order), first), order
