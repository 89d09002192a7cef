"""A clip with its texts, and what several metrics share about it, computed once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.clip import Clip
from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.encoders.transformers import Encoder, Features
from vidguide.eval.metrics.optical_flow import Motion, follow
from vidguide.eval.world import oracle


@dataclass(frozen=True)
class Sample:
    """What a metric looks at.

    Attributes:
        clip: frames `(F, H, W, 3)` uint8 and their rate.
        eval_prompt: what the clip should show, as it is scored; often shorter than the prompt that made it.
        negative_prompt: what it should not show.
        encoders: weights by kind, where the user has them, see :mod:`vidguide.eval.encoders.catalogue`.
    """

    clip: Clip
    eval_prompt: str | None = None
    negative_prompt: str | None = None
    encoders: Mapping[str, Encoder] = field(default_factory=dict)

    def weights_of(self, kind: str) -> Any:
        """The weights of a kind.

        Raises:
            UndefinedError: none were given.
        """
        found = self.encoders.get(kind)
        if found is None:
            raise UndefinedError(f"no weights were given: --{kind} MODEL")
        return found

    def features(self, kind: str) -> Features:
        """Unit features `(F, D)` of the frames by an encoder.

        Raises:
            UndefinedError: no such encoder was given.
        """
        return self.kept(kind, lambda: self.weights_of(kind).frames(self.clip.frames))

    def kept(self, name: str, make: Callable[[], Features]) -> Features:
        """Features by name, made when they are first asked for."""
        if name not in self.encoded:
            self.encoded[name] = make()
        return self.encoded[name]

    @cached_property
    def encoded(self) -> dict[str, Features]:
        """Features by name, filled as they are asked for."""
        return {}

    @cached_property
    def motion(self) -> Motion:
        """Optical flow between neighbouring frames, reduced to numbers per pair."""
        return follow(self.clip.frames)

    @cached_property
    def reading(self) -> oracle.Reading:
        """What the oracle of the synthetic world sees."""
        return oracle.read(self.clip.frames)

    @cached_property
    def dual(self) -> Features:
        """Unit features `(D,)` of the clip by the dual encoder of the synthetic world."""
        from vidguide.eval.metrics.world_similarity import shipped

        return shipped().clip(self.clip.frames)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Time from each frame to the next `(F - 1,)`: the file's own, else from the rate."""
        times = self.clip.provenance.get("times") or []
        if len(times) == len(self.clip.frames):
            return np.diff(times)
        return np.full(len(self.clip.frames) - 1, 1 / self.clip.fps)
