"""Attention over distinct keys equals attention over all of them, in every dtype and under masks."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidguide.functional.distinct_keys import DistinctKeys, distinct_keys, first_equal, log_count

HEADS, DIM, LENGTH = 3, 8, 40
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5}
HALF = [torch.bfloat16, torch.float16]

PADS: dict[str, list[Sequence[int]]] = {  # which tokens are equal in each row
    "none": [[], []],
    "one": [[39], [39]],
    "many": [range(6, 40), range(6, 40)],
    "not at the end": [[0, 1, 2, 9, 20, 21], [3, 5, 7]],
    "of other lengths": [range(3, 40), range(25, 40)],
    "all": [range(40), range(40)],
}


def random_keys(dtype: torch.dtype, pads: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return a query, keys, and values, of which those of pads are equal in each row."""
    query, key, value = (torch.randn(2, length, HEADS, DIM).to(dtype) for length in (11, LENGTH, LENGTH))
    for row, tokens in enumerate(PADS[pads]):
        for token in tokens:
            key[row, token], value[row, token] = key[row, tokens[0]], value[row, tokens[0]]
    return query, key, value


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return torch's attention over `(B, L, H, D)` tensors."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)


def collapsed(key: Tensor, value: Tensor, mask: Tensor | None) -> DistinctKeys:
    distinct = distinct_keys(key, value, mask)
    assert distinct is not None
    return distinct


def over_distinct(query: Tensor, distinct: DistinctKeys) -> Tensor:
    return attention(query, distinct.key, distinct.value, distinct.bias)


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("dtype", EXACT)
def test_distinct_keys_equal_all_keys(dtype: torch.dtype, pads: str) -> None:
    query, key, value = random_keys(dtype, pads)
    distinct = collapsed(key, value, None)
    assert distinct.number == distinct.key.shape[1] == max(LENGTH - max(len(tokens) - 1, 0) for tokens in PADS[pads])
    expected = attention(query, key, value, None)
    torch.testing.assert_close(over_distinct(query, distinct), expected, atol=EXACT[dtype], rtol=0)
    torch.testing.assert_close(over_distinct(query, distinct.padded(48)), expected, atol=EXACT[dtype], rtol=0)


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_no_further_from_float64(dtype: torch.dtype, pads: str) -> None:
    errors: list[list[Tensor]] = [[], []]
    for _ in range(20):
        query, key, value = random_keys(dtype, pads)
        exact = attention(query.double(), key.double(), value.double(), None)
        results = attention(query, key, value, None), over_distinct(query, collapsed(key, value, None))
        for result, error in zip(results, errors, strict=True):
            error.append((result.double() - exact).pow(2).mean())
    plain, distinct = (torch.stack(error).mean().sqrt() for error in errors)
    assert distinct <= 1.05 * plain


@pytest.mark.parametrize("kind", ["boolean", "infinite", "finite", "heads", "one row"])
@pytest.mark.parametrize("pads", PADS)
def test_masked_keys_are_dropped(kind: str, pads: str) -> None:
    query, key, value = random_keys(torch.float64, pads)
    valid = torch.rand(2, 1, 1, LENGTH) < 0.6
    valid[..., 0] = True
    if kind == "one row":
        valid = valid[:1]
    mask = {
        "boolean": valid,
        "one row": valid,
        "infinite": torch.zeros(valid.shape).masked_fill(~valid, -torch.inf),
        "finite": (~valid).double() * -1e4,
        "heads": ((~valid).double() * -1e4).expand(-1, HEADS, -1, -1),
    }[kind]
    distinct = collapsed(key, value, mask)
    bits = [
        {tuple(key[row, token].flatten().tolist()) for token in valid[row % len(valid)].flatten().nonzero()[:, 0]}
        for row in range(2)
    ]
    assert distinct.number == max(map(len, bits))
    expected = attention(query, key, value, valid)
    torch.testing.assert_close(over_distinct(query, distinct), expected, atol=1e-12, rtol=0)


def test_masks_that_say_more_are_not_reduced() -> None:
    _, key, value = random_keys(torch.float32, "many")
    valid = torch.ones(2, 1, 1, LENGTH, dtype=torch.bool)
    valid[1] = False
    causal = torch.ones(2, 1, 11, LENGTH, dtype=torch.bool).tril()
    by_head = torch.rand(2, HEADS, 1, LENGTH) < 0.5
    weights = torch.rand(2, 1, 1, LENGTH)
    for mask in (valid, causal, by_head, weights):
        assert distinct_keys(key, value, mask) is None


def test_equal_keys_with_other_values_are_distinct() -> None:
    _, key, value = random_keys(torch.float32, "many")
    value[:, -1, -1, -1] += 1
    assert collapsed(key, value, None).number == 8
    key[:, -2, 0, 0] = torch.nextafter(key[:, -2, 0, 0], torch.tensor(9.0))
    assert collapsed(key, value, None).number == 9


def test_equal_checksums_of_different_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vidguide.functional.distinct_keys.checksum_factors", lambda channels: torch.zeros(channels).long()
    )
    rows = torch.tensor([[[1.0], [2.0], [1.0], [2.0]]])
    assert first_equal(rows, torch.ones(1, 4).long()).tolist() == [[0, 1, 0, 3]]


@pytest.mark.parametrize("dtype", [*EXACT, *HALF])
def test_exponentials_add_up_to_the_count(dtype: torch.dtype) -> None:
    counts = torch.arange(600)
    parts = log_count(counts, dtype)
    assert parts.dtype == dtype
    error = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(parts.double().exp().sum(-1), counts.double(), rtol=error, atol=0)
    assert parts[1].double().exp().tolist() == [1.0, *[0.0] * (parts.shape[1] - 1)]
