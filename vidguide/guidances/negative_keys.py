"""Keys and values of a negative, or of the prompt, at the text cross-attentions, reduced to the distinct ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vidguide.attention.site import AttentionSite
from vidguide.functional.distinct_keys import DistinctKeys, distinct_keys
from vidguide.transformer.compile import mark_dynamic

ALIGNMENT = 16  # of the number of keys, for torch's kernels
MOST_DISTINCT = 0.75  # of all keys, so that kernels that need no mask are not replaced for little


class Negative(NamedTuple):
    """A negative, or the prompt, at one text cross-attention: keys and values `(1 or B, L, H, D)` and mask as the
    model's processor computed them, and the text inputs that they were computed from.

    Attributes:
        distinct: the number of distinct keys, whose mask counts them; 0 where these are all keys.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None
    text: Mapping[str, Any]
    distinct: int = 0


def distinct_negatives(negatives: Mapping[AttentionSite, Negative]) -> Mapping[AttentionSite, Negative]:
    """Reduce negatives to their distinct keys where these are fewer and no gradient is computed.

    All of one text have the same number of keys: compiled blocks need one graph, which serves other numbers too.
    """
    reduced: dict[AttentionSite, Negative] = dict(negatives)
    for length in {negative.key.shape[1] for negative in negatives.values()}:
        of_text = {site: negative for site, negative in negatives.items() if negative.key.shape[1] == length}
        few: list[DistinctKeys] = []
        for negative in of_text.values():
            if (keys := few_keys(negative)) is None:
                break
            few.append(keys)
        if len(few) < len(of_text):
            continue
        longest = min(rounded(max(keys.key.shape[1] for keys in few)), length)
        for (site, negative), keys in zip(of_text.items(), few, strict=True):
            key, value, mask, number = keys.padded(longest)
            for tensor, dim in ((key, 1), (value, 1), (mask, 3)):
                mark_dynamic(tensor, dim)
            reduced[site] = Negative(key, value, mask, negative.text, number)
    return reduced


def few_keys(negative: Negative) -> DistinctKeys | None:
    """Return the distinct keys of a negative; None where attention to them would not be cheaper."""
    key, value = negative.key, negative.value
    limit = key.shape[1] * MOST_DISTINCT if negative.mask is None else key.shape[1] - 1
    if key.requires_grad or value.requires_grad:  # it would be of the first of equal keys alone
        return None
    distinct = distinct_keys(key, value, negative.mask)
    return None if distinct is None or rounded(distinct.key.shape[1]) > limit else distinct


def rounded(keys: int) -> int:
    """Return a number of keys rounded up to the alignment."""
    return -(-keys // ALIGNMENT) * ALIGNMENT


def numbers_of_keys(
    before: Mapping[AttentionSite, Negative], after: Mapping[AttentionSite, Negative], text: str = "negative"
) -> list[str]:
    """Describe, for the trace, how many keys the texts that were reduced had and have."""
    numbers: dict[int, int] = {}
    for site, negative in after.items():
        keys = before[site].key.shape[1]
        numbers[keys] = max(negative.distinct, numbers.get(keys, 0))
    return [f"{text} of {keys} keys, {number} distinct" for keys, number in numbers.items() if number]
