"""Limits of a request to the page."""

from dataclasses import dataclass, fields
from typing import Any

MAX_TOKENS = 1024  # of a text; no model that vidguide knows takes more
MAX_FPS = 240


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Largest values that a visitor may ask for, of what the flags of `vidguide serve` bound.

    Attributes:
        steps: denoising steps. frames: frames of a clip. size: longer side in pixels.
    """

    steps: int = 50
    frames: int = 129
    size: int = 1280

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(getattr(self, field.name)) is not int or getattr(self, field.name) < 1:
                raise ValueError(f"max_{field.name}={getattr(self, field.name)!r}: must be an integer of at least 1")

    def check(self, settings: dict[str, Any]) -> None:
        """Refuse settings above a limit.

        Args:
            settings: of a clip; None is the default of the model.

        Raises:
            ValueError: naming the setting, its value and the limit.
        """
        bounds = {"steps": self.steps, "frames": self.frames, "width": self.size, "height": self.size}
        bounds |= {"max_sequence_length": MAX_TOKENS, "fps": MAX_FPS}
        for name, bound in bounds.items():
            value = settings.get(name)
            if value is not None and value > bound:
                raise ValueError(f"{name}={value}: must be at most {bound} on this server")
