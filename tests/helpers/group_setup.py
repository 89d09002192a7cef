"""What diffusers' context parallel needs on a CPU, in each process of a group."""

import torch


def count_one_accelerator() -> None:
    """Report one accelerator: on a CPU there is none, and diffusers 0.42.1 divides by their number."""
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1
