"""Which heads of a full 3D attention look within their frame, and which along time."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidguide.attention.site import AttentionSite, EditedAttention, KernelCall, Observer, Perturbation
from vidguide.functional.formulas import additive
from vidguide.functional.masks import masked, rows_of

SAMPLES = 64  # queries measured, of each sample: their scores cost SAMPLES / L of one attention's


def attention_mass(
    query: Tensor,
    key: Tensor,
    grid: tuple[int, int, int],
    positions: Tensor,
    scale: float | None = None,
    mask: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """How much attention stays within the query's frame, and how much within its pixel column.

    The criterion of Sparse-VideoGen (Xi et al., arXiv 2502.01776), by the attention's mass. A query's own token counts
    in both. Attention that is spread evenly gives a frame more, since it has more tokens than a column.

    Args:
        query: `(B, Q, H, D)`, of some video tokens. key: `(B, K, H, D)`, of all tokens.
        grid: the video's tokens over (F, H, W).
        positions: `(Q,)`, which video tokens the queries are of, counted from 0.
        scale: of the scores; None for `D ** -0.5`.
        mask: boolean or additive, broadcastable to `(B, H, Q, K)`.
        first: where the video's tokens begin among the keys.

    Returns:
        `(H, 2)`, the mean over queries of the share within the frame and of that within the column.
    """
    frames, height, width = grid
    scores = torch.einsum("bqhd,bkhd->bhqk", query.float() * (scale or query.shape[-1] ** -0.5), key.float())
    if mask is not None:
        scores = scores + additive(mask, scores.dtype)
    pixels = height * width
    weights = scores.softmax(-1)[..., first : first + frames * pixels]
    weights = weights.reshape(*weights.shape[:3], frames, pixels)
    frame, pixel = (positions // pixels).view(-1, 1, 1), (positions % pixels).view(-1, 1, 1)
    index = weights.shape[:3]
    within = torch.gather(weights, 3, frame.expand(*index, 1, pixels)).sum((-2, -1))
    along = torch.gather(weights, 4, pixel.expand(*index, frames, 1)).sum((-2, -1))
    return torch.stack([within, along], -1).mean((0, 2))


def sampled_positions(tokens: int, device: torch.device) -> Tensor:
    """At most SAMPLES positions among some tokens, at random but always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(tokens, generator=generator)[:SAMPLES].sort().values.to(device)


class HeadObserver:
    """Measures the heads of one attention in an unperturbed pass, on sampled queries.

    Attributes:
        masses: `(H, 2)` of each kernel call.
    """

    def __init__(self, site: AttentionSite, grid: tuple[int, int, int], device: torch.device) -> None:
        self.site, self.grid = site, grid
        self.tokens = grid[0] * grid[1] * grid[2]
        self.positions = sampled_positions(self.tokens, device)
        self.masses: list[Tensor] = []

    def __call__(self, kernel: KernelCall, query: Tensor, key: Tensor) -> None:
        video = self.site.video
        if video is None:
            raise RuntimeError("heads are measured where a perturbed pass may run")
        query, key = video.parallel.gather(query), video.parallel.gather(key)
        rows, tokens = video.rows(kernel.batch, kernel.index, query.shape[0]), video.tokens(query.shape[1])
        first = tokens.stop - self.tokens  # history, where there is any, comes before the frames that are generated
        chosen = first + self.positions
        mask = masked(rows_of(kernel.mask, rows.start, rows.stop), chosen)
        if query[rows].shape[0]:
            scale = kernel.kwargs.get("scale")
            mass = attention_mass(query[rows][:, chosen], key[rows], self.grid, self.positions, scale, mask, first)
            self.masses.append(mass)

    @property
    def mass(self) -> Tensor:
        """`(H, 2)`, share of the attention within the frame and within the pixel column.

        Raises:
            RuntimeError: the measured pass did not run the block.
        """
        if not self.masses:
            raise RuntimeError(f"block {self.site.layer} did not run: a cache skipped it; switch the cache off")
        return torch.stack(self.masses).mean(0)


class HeadSelection:
    """The heads of one extent in some layers, measured in one unperturbed pass.

    Attributes:
        extent: "spatial" for heads with more attention within their frame, "temporal" for the others.
    """

    def __init__(
        self, extent: str, sites: Mapping[int, AttentionSite], grid: tuple[int, int, int], device: torch.device
    ) -> None:
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
        """Return `(H,)`, True for the heads of the extent."""
        within, along = self._observers[layer].mass.unbind(-1)
        return along > within if self.extent == "temporal" else along <= within

    def layers(self) -> tuple[int, ...]:
        """Return the layers that have such a head.

        Raises:
            ValueError: none has.
        """
        having = tuple(layer for layer in self._observers if self.chosen(layer).any())
        if not having:
            raise ValueError(
                f"extent={self.extent!r}: layers {tuple(self._observers)} have no {self.extent} head in this model; "
                "choose others by `vidguide locate --profile`"
            )
        return having

    def restrict(self, layer: int, perturbation: Perturbation) -> Perturbation:
        """Return a perturbation of those heads alone."""
        heads = self.chosen(layer).unsqueeze(-1)

        def attend(attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            changed = perturbation(attention, query, key, value)
            return torch.where(heads, changed, attention(query, key, value))

        return attend
