"""Random generators that depend on a seed and the step alone."""

import torch


def generator_at(seed: int, step: int) -> torch.Generator:
    """Return a generator on the CPU for one step: the same for all passes and ranks, whatever ran before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
