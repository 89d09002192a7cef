"""Selection of the heads of a full 3D attention that attend within their frame or along time, measured in a run."""

from collections.abc import Mapping
from itertools import compress

import torch
from torch import Tensor

from vidguide.attention.site import AttentionSite, EditedAttention, KernelCall, Observer, Perturbation
from vidguide.functional.head_mass import Grid, attention_mass, has_extent, lift
from vidguide.functional.masks import masked, rows_of

SAMPLES = 64  # queries measured, of each sample: their scores cost SAMPLES / L of one attention's


def sampled_positions(tokens: int, device: torch.device) -> Tensor:
    """Draw at most SAMPLES of the positions of some tokens, with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(tokens, generator=generator)[:SAMPLES].sort().values.to(device)


class HeadObserver:
    """Measures the heads of one attention in an unperturbed pass, on sampled queries.

    Attributes:
        masses: `(B, H, 2)` of each kernel call.
    """

    def __init__(self, site: AttentionSite, grid: Grid, device: torch.device) -> None:
        self.site, self.grid = site, grid
        self.tokens = grid[0] * grid[1] * grid[2]
        self.positions = sampled_positions(self.tokens, device)
        self.masses: list[Tensor] = []

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor) -> None:
        video = self.site.video
        if video is None:
            raise RuntimeError("heads are measured where a perturbed pass may run")
        query, key = video.parallel.gather(query.detach()), video.parallel.gather(key.detach())
        rows, tokens = video.rows(kernel.batch, kernel.index, query.shape[0]), video.tokens(query.shape[1])
        first = tokens.stop - self.tokens  # history, if any, precedes the generated frames
        chosen = first + self.positions
        mask = masked(rows_of(kernel.mask, rows.start, rows.stop), chosen)
        if query[rows].shape[0]:
            scale = kernel.kwargs.get("scale")
            mass = attention_mass(query[rows][:, chosen], key[rows], self.grid, self.positions, scale, mask, first)
            self.masses.append(mass)

    @property
    def mass(self) -> Tensor:
        """Shares of the attention within the frame and within the pixel column of each sample, `(B, H, 2)`.

        Raises:
            RuntimeError: the measured pass did not run the block.
        """
        if not self.masses:
            raise RuntimeError(f"block {self.site.layer} did not run: a cache skipped it; switch the cache off")
        return torch.cat(self.masses)


class HeadSelection:
    """The heads of one extent in some layers, measured in one unperturbed pass for each sample.

    Attributes:
        extent: "spatial" or "temporal", of :func:`vidguide.functional.head_mass.has_extent`.
    """

    def __init__(self, extent: str, sites: Mapping[int, AttentionSite], grid: Grid, device: torch.device) -> None:
        self.extent = extent
        self._observers = {layer: HeadObserver(site, grid, device) for layer, site in sites.items()}
        self._planned = False

    def observers(self) -> dict[AttentionSite, tuple[Observer, ...]]:
        """Return the observers of the pass to measure: those of the first call of this method, then none."""
        if self._planned:
            return {}
        self._planned = True
        return {observer.site: (observer,) for observer in self._observers.values()}

    def chosen(self, layer: int) -> Tensor:
        """Return which heads of each sample are of the extent, `(B, H)`."""
        observer = self._observers[layer]
        return has_extent(lift(observer.mass, observer.grid), self.extent)

    def layers(self) -> tuple[int, ...]:
        """Return the layers in which some sample has such a head.

        Raises:
            ValueError: a sample has none in any layer.
        """
        present = torch.stack([self.chosen(layer).any(1) for layer in self._observers])
        lacking = [sample for sample, layers in enumerate(present.T.tolist()) if not any(layers)]
        if lacking:
            samples = f" for samples {lacking} of the batch" if len(lacking) < present.shape[1] else ""
            raise ValueError(
                f"extent={self.extent!r}: layers {tuple(self._observers)} have no {self.extent} head in this "
                f"model{samples}; choose others by `vidguide locate --profile`"
            )
        return tuple(compress(self._observers, present.any(1).tolist()))

    def restrict(self, layer: int, perturbation: Perturbation) -> Perturbation:
        """Return a perturbation of those heads alone."""
        heads, video = self.chosen(layer), self._observers[layer].site.video

        def attend(attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            changed, rows = perturbation(attention, query, key, value), heads
            if video is not None and video.per_sample:
                rows = heads[video.sample(attention.kernel.batch, attention.kernel.index)]
            return torch.where(rows.reshape(-1, 1, heads.shape[1], 1), changed, attention(query, key, value))

        return attend
