"""The trained dual encoder that ships in eval/weights/dual; it loads at first use."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vidguide.eval.hashing import read_blocks, short_sha256

if TYPE_CHECKING:
    from vidguide.eval.world.dual_encoder import TrainedEncoder

FOLDER = Path(__file__).parents[1] / "weights" / "dual"
WEIGHTS = f"dual {short_sha256(read_blocks(FOLDER / 'model.safetensors'))}"


@cache
def shipped_encoder() -> "TrainedEncoder":
    """Return the shipped encoder; torch is imported here."""
    from vidguide.eval.world.dual_encoder import TrainedEncoder

    return TrainedEncoder(FOLDER)
