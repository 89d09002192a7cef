"""Published figures of some cards, and the time that a computation would take on them."""

from dataclasses import dataclass

EFFICIENCY = 0.4  # assumed share of the peak FLOPS; not measured here
BANDWIDTH_EFFICIENCY = 0.7  # assumed share of the bandwidths of memory and bus; not measured here
RESERVED = 1.0  # GiB assumed for the CUDA context, workspaces and fragmentation


@dataclass(frozen=True)
class Card:
    """Figures of a card from its datasheet.

    Attributes:
        memory: GiB.
        flops: peak of dense bfloat16 products with float32 accumulation, in FLOPS.
        bandwidth: of its memory, in bytes per second.
        bus: to the CPU in one direction, in bytes per second.
        source: page of the figures.
    """

    memory: float
    flops: float
    bandwidth: float
    bus: float
    source: str


ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
AMPERE = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
PCIE_4, PCIE_5 = 32e9, 64e9  # 16 lanes, one direction
CARDS = {
    "rtx3090": Card(24, 71e12, 936e9, PCIE_4, AMPERE),
    "rtx4090": Card(24, 165.2e12, 1008e9, PCIE_4, ADA),
    "l40s": Card(48, 362.05e12, 864e9, PCIE_4, "https://www.nvidia.com/en-us/data-center/l40s/"),
    "a100-40gb": Card(40, 312e12, 1555e9, PCIE_4, "https://www.nvidia.com/en-us/data-center/a100/"),
    "a100-80gb": Card(80, 312e12, 2039e9, PCIE_4, "https://www.nvidia.com/en-us/data-center/a100/"),
    "h100": Card(80, 989e12, 3350e9, PCIE_5, "https://www.nvidia.com/en-us/data-center/h100/"),
    "h200": Card(141, 989e12, 4800e9, PCIE_5, "https://www.nvidia.com/en-us/data-center/h200/"),
}


def card_named(name: str) -> Card:
    """Return a card by name; raise ValueError for another."""
    if name.lower() not in CARDS:
        raise ValueError(f"card={name!r}: must be one of {', '.join(CARDS)}")
    return CARDS[name.lower()]


def seconds(card: Card, flops: float, moved: float, copied: float = 0, overlapped: bool = False) -> float:
    """Return the seconds of a computation: what takes longer of arithmetic and memory, and then the copies.

    Args:
        card: card.
        flops: floating point operations. moved: bytes of its memory that are read or written.
        copied: bytes from the CPU. overlapped: whether these are copied while it computes.
    """
    computed = max(flops / (EFFICIENCY * card.flops), moved / (BANDWIDTH_EFFICIENCY * card.bandwidth))
    copying = copied / (BANDWIDTH_EFFICIENCY * card.bus)
    return max(computed, copying) if overlapped else computed + copying
