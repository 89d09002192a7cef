"""Where video tokens lie in a transformer's arguments: the token grid, and the same arguments cut to one token."""

from typing import Any

from torch import Tensor

from vidguide.transformer.family import Family, Inputs


def patch_of(config: Any) -> tuple[int, int, int]:
    """Patch size over (F, H, W), whichever way a config writes it."""
    size = config.patch_size
    if isinstance(size, int):
        return getattr(config, "patch_size_t", None) or 1, size, size
    frames, height, width = size
    return frames, height, width


def grid(family: Family, transformer: Any, inputs: Inputs) -> tuple[int, int, int]:
    """The video's token grid (F, H, W).

    Raises:
        ValueError: the pipeline packs its tokens and does not say of which grid.
    """
    if "L" in family.layout:  # packed by the pipeline, which passes the grid along
        frames, height, width = (inputs.get(name) for name in ("num_frames", "height", "width"))
        if frames is None or height is None or width is None:
            raise ValueError(
                f"{family.name}: this pipeline gives its tokens coordinates and may add some of other frames, so that "
                "they are no grid; guidance by frames or places needs a pipeline that passes num_frames, height, width"
            )
        return frames, height, width
    video = inputs["hidden_states"]
    sizes = (video.shape[family.layout.index(axis)] for axis in "FHW")
    frames, height, width = (size // patch for size, patch in zip(sizes, patch_of(transformer.config), strict=True))
    return frames, height, width


def one_token(family: Family, transformer: Any, inputs: Inputs, text: Inputs) -> Inputs:
    """The forward's arguments for a text over a single video token, on which no text's keys or values depend.

    Args:
        inputs: arguments of a call of the model.
        text: text inputs, of any batch; the rest is brought to it.
    """
    rows = text[family.text_inputs[0]].shape[0]
    axes = {"hidden_states": family.layout, "timestep": "BLLLL", **family.cuts}
    sizes = {**dict(zip("FHW", patch_of(transformer.config), strict=True)), "L": 1}
    batch = inputs["hidden_states"].shape[0]
    small = {name: _cut(value, axes.get(name, ""), sizes) for name, value in inputs.items()}
    small |= {name: value for name, value in family.instead.items() if name in inputs}
    if family.adjust is not None:
        small = family.adjust(transformer, inputs, small)
    small = {name: _rows(value, batch, rows) for name, value in small.items()}
    return {**small, **text}


def _cut(value: Any, axes: str, sizes: dict[str, int]) -> Any:
    """The first corner of a tensor along those of its axes that have a size."""
    if isinstance(value, Tensor):
        for dim, axis in enumerate(axes[: value.ndim]):
            if axis in sizes:
                value = value.narrow(dim, 0, sizes[axis])
    return value


def _rows(value: Any, batch: int, rows: int) -> Any:
    """The first of a batch, as often as needed."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch:
        return value[:1].expand(rows, *[-1] * (value.ndim - 1))
    return value
