"""Cross-frame intensity against one map per place and head, and random orders against their extent."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidguide.functional.cross_frame import cross_frame_intensity, enhancement
from vidguide.functional.shuffle import random_order


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([None, 0.7, 5.0]))
def test_the_intensity_is_the_mean_of_the_off_diagonal_elements(
    frames: int, places: int, seed: int, scale: float | None
) -> None:
    random = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(2, frames * places, 3, 4, generator=random, dtype=torch.float64) for _ in range(2))
    intensity = cross_frame_intensity(query, key, frames, scale)
    for row in range(2):
        elements = []
        for place in range(places):
            for head in range(3):
                one, other = (tensor[row, place::places, head] for tensor in (query, key))
                weights = (one @ other.T * (0.5 if scale is None else scale)).softmax(-1)
                elements += [weights[i, j] for i in range(frames) for j in range(frames) if i != j]
        torch.testing.assert_close(intensity[row], torch.stack(elements).mean(), atol=1e-12, rtol=0)
        for weight in (-1.0, 0.0, 1.0, 4.0):
            expected = max(1.0, (frames + weight) * intensity[row].item())
            assert abs(enhancement(intensity, frames, weight)[row].item() - expected) < 1e-12
    assert torch.equal(enhancement(intensity * (1 - 1e-12), frames, -1), torch.ones(2, dtype=torch.float64))


def test_uniform_attention_has_intensity_one_over_frames() -> None:
    flat = torch.zeros(1, 12, 2, 4)
    torch.testing.assert_close(cross_frame_intensity(flat, torch.randn(1, 12, 2, 4), 3), torch.tensor([1 / 3]))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000))
def test_orders_permute_only_within_their_extent(frames: int, height: int, width: int, seed: int) -> None:
    grid, places = (frames, height, width), height * width
    for extent in (None, "spatial", "temporal"):
        order = random_order(grid, extent, torch.Generator().manual_seed(seed))
        assert torch.equal(order.sort().values, torch.arange(frames * places))
        again = random_order(grid, extent, torch.Generator().manual_seed(seed))
        assert torch.equal(order, again)
        frame, place = (order // places).unflatten(0, (frames, places)), (order % places).unflatten(0, (frames, places))
        if extent == "spatial":
            assert torch.equal(frame, torch.arange(frames).unsqueeze(1).expand_as(frame))
            assert torch.equal(place, place[:1].expand_as(place))
        if extent == "temporal":
            assert torch.equal(place, torch.arange(places).expand_as(place))
            assert torch.equal(frame, frame[:, :1].expand_as(frame))


def test_orders_differ_between_draws_of_one_generator() -> None:
    generator = torch.Generator().manual_seed(0)
    orders = [random_order((3, 4, 4), None, generator) for _ in range(3)]
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])
