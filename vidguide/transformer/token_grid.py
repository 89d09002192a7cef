"""The video's token grid in a transformer's arguments, and the arguments cut to one token."""

from typing import Any

from torch import Tensor

from vidguide.transformer.family import Family, Inputs


def patch_of(transformer: Any) -> tuple[int, int, int]:
    """Return the patch size over (F, H, W) from either form of a config.

    Raises:
        ValueError: the config has none.
    """
    config = transformer.config
    size = config.get("patch_size")
    if size is None:
        raise ValueError(f"{type(transformer).__name__}: its config has no patch_size, the size of a token")
    if isinstance(size, int):
        return config.get("patch_size_t") or 1, size, size
    frames, height, width = size
    return frames, height, width


def grid(family: Family, transformer: Any, inputs: Inputs) -> tuple[int, int, int]:
    """Return the video's token grid (F, H, W).

    Raises:
        ValueError: the pipeline packs its tokens and does not pass their grid, or packs them in an unknown order.
    """
    if family.joint is not None and family.joint.packed is not None:
        packed = family.joint.packed
        return packed.grid(inputs, packed.media(inputs)[-1])
    if "L" in family.layout:  # packed by the pipeline, which passes the grid
        frames, height, width = (inputs.get(name) for name in ("num_frames", "height", "width"))
        if frames is None or height is None or width is None:
            raise ValueError(
                f"{family.name}: this pipeline passes coordinates of its tokens and may add other frames, so that "
                "they are no grid; guidance that depends on frames or positions needs a pipeline that passes "
                "num_frames, height and width"
            )
        return frames, height, width
    video = inputs["hidden_states"]
    sizes = (video.shape[family.layout.index(axis)] for axis in "FHW")
    frames, height, width = (size // patch for size, patch in zip(sizes, patch_of(transformer), strict=True))
    return frames, height, width


def one_token(family: Family, transformer: Any, inputs: Inputs, text: Inputs) -> Inputs:
    """Return the forward's arguments for a text and a single video token, on which the text's keys and values do not
    depend.

    Args:
        inputs: arguments of a call of the model.
        text: text inputs of any batch size, to which the other arguments are expanded.
    """
    rows = text[family.text_inputs[0]].shape[0]
    axes = {"hidden_states": family.layout, "timestep": "BLLLL", **family.grid_axes}
    sizes = {**dict(zip("FHW", patch_of(transformer), strict=True)), "L": 1}
    batch = inputs["hidden_states"].shape[0]
    small = {name: _cut(value, axes.get(name, ""), sizes) for name, value in inputs.items()}
    small |= {name: value for name, value in family.one_token_inputs.items() if name in inputs}
    if family.adjust_one_token is not None:
        small = family.adjust_one_token(transformer, inputs, {**small, **text})
    small = {name: _rows(value, batch, rows) for name, value in small.items()}
    return {**small, **text}


def _cut(value: Any, axes: str, sizes: dict[str, int]) -> Any:
    """Cut a tensor to the leading part along those of its axes that have a size."""
    if isinstance(value, Tensor):
        for dim, axis in enumerate(axes[: value.ndim]):
            if axis in sizes:
                value = value.narrow(dim, 0, sizes[axis])
    return value


def _rows(value: Any, batch: int, rows: int) -> Any:
    """Expand the first row of a batch to `rows` rows; return other values as they are."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch:
        return value[:1].expand(rows, *[-1] * (value.ndim - 1))
    return value
