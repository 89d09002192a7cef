"""Which heads of a full 3D attention attend within their frame, and which along time, measured in a run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vidguide.attention.interception import Attention, Kernel, Perturbation, Site
from vidguide.functional.head_mass import Grid, attention_mass, has_extent, lift
from vidguide.functional.masks import masked, rows_of

SAMPLES = 64  # queries measured, of each sample: their scores cost SAMPLES / L of one attention's


def sampled_positions(tokens: int, device: torch.device) -> Tensor:
    """At most SAMPLES positions among some tokens, at random but always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(tokens, generator=generator)[:SAMPLES].sort().values.to(device)


class HeadWatch:
    """Measures the heads of one attention in a clean pass, on sampled queries.

    Attributes:
        masses: `(H, 2)` of each kernel call.
    """

    def __init__(self, site: Site, grid: Grid) -> None:
        self.site, self.grid = site, grid
        self.tokens = grid[0] * grid[1] * grid[2]
        self.positions: Tensor | None = None
        self.masses: list[Tensor] = []

    def begin(self, device: torch.device) -> None:
        """Watch the clean pass that comes next."""
        self.positions, self.masses = sampled_positions(self.tokens, device), []
        self.site.watchers.append(self)

    def __call__(self, kernel: Kernel, query: Tensor, key: Tensor) -> None:
        video = self.site.video
        if video is None or self.positions is None:
            raise RuntimeError("heads are measured where a weak pass may run")
        query, key = video.ranks.whole(query), video.ranks.whole(key)
        rows, tokens = video.rows(query.shape[0]), video.tokens(query.shape[1])
        first = tokens.stop - self.tokens  # history, where there is any, comes before the frames that are made
        chosen = first + self.positions
        mask = masked(rows_of(kernel.mask, rows.start, rows.stop), chosen)
        if query[rows].shape[0]:
            scale = kernel.kwargs.get("scale")
            found = attention_mass(query[rows][:, chosen], key[rows], self.grid, self.positions, scale, mask, first)
            self.masses.append(found)

    @property
    def mass(self) -> Tensor:
        """Shares of the attention within the frame and within the pixel column, `(H, 2)`.

        Raises:
            RuntimeError: the pass that was to be measured did not run the block.
        """
        if not self.masses:
            raise RuntimeError(f"block {self.site.layer} did not run: a cache skipped it; switch the cache off")
        return torch.stack(self.masses).mean(0)


class Heads:
    """The heads of one extent in some layers, found by one clean pass.

    Attributes:
        extent: "spatial" or "temporal", of :func:`vidguide.functional.head_mass.has_extent`.
    """

    def __init__(self, extent: str, sites: dict[int, Site], grid: Grid) -> None:
        self.extent, self.found = extent, False
        self.watches = {layer: HeadWatch(site, grid) for layer, site in sites.items()}

    def begin(self, device: torch.device) -> None:
        """Measure in the clean pass that comes next, once."""
        if not self.found:
            self.found = True
            for watch in self.watches.values():
                watch.begin(device)

    def chosen(self, layer: int) -> Tensor:
        """Return which heads are of the extent, `(H,)`."""
        watch = self.watches[layer]
        return has_extent(lift(watch.mass, watch.grid), self.extent)

    def layers(self) -> tuple[int, ...]:
        """The layers that have such a head.

        Raises:
            ValueError: none has.
        """
        having = tuple(layer for layer in self.watches if self.chosen(layer).any())
        if not having:
            asked: Sequence[int] = tuple(self.watches)
            raise ValueError(
                f"extent={self.extent!r}: layers {asked} have no {self.extent} head in this model; choose others by "
                "`vidguide locate --profile`"
            )
        return having

    def only(self, layer: int, perturbation: Perturbation) -> Perturbation:
        """A perturbation of those heads alone."""
        heads = self.chosen(layer).unsqueeze(-1)

        def attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            changed = perturbation(attention, query, key, value)
            return torch.where(heads, changed, attention(query, key, value))

        return attend
