"""A clip with its texts, and the intermediate results that several metrics share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidguide.clip import Clip
from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.encoders.transformers import Encoder, Features
from vidguide.eval.metrics.colours import Colours, colours
from vidguide.eval.metrics.optical_flow import FlowStatistics, flow_statistics
from vidguide.eval.metrics.tracks import Tracks, find_tracks, shrunk_frames
from vidguide.eval.metrics.warping import PairErrors, pair_errors
from vidguide.eval.world import oracle
from vidguide.eval.world.shipped_encoder import shipped_encoder


@dataclass(frozen=True)
class Sample:
    """The input of a metric.

    Attributes:
        clip: frames `(F, H, W, 3)` uint8 and their rate.
        eval_prompt: text that the clip is scored against; often shorter than the prompt that generated it.
        negative_prompt: what the clip should not show.
        encoders: weights by kind, see :mod:`vidguide.eval.encoders.catalogue`.
    """

    clip: Clip
    eval_prompt: str | None = None
    negative_prompt: str | None = None
    encoders: Mapping[str, Encoder] = field(default_factory=dict)

    def encoder(self, kind: str) -> Any:
        """Return the encoder of a kind.

        Raises:
            UndefinedError: there is none.
        """
        if kind not in self.encoders:
            raise UndefinedError(f"no weights were given: --{kind} MODEL")
        return self.encoders[kind]

    def features(self, kind: str) -> Features:
        """Return unit features `(F, D)` of the frames by the encoder of a kind.

        Raises:
            UndefinedError: there is no such encoder.
        """
        return self.cached_features(kind, lambda: self.encoder(kind).frames(self.clip.frames))

    def cached_features(self, name: str, compute: Callable[[], Features]) -> Features:
        """Return the features cached under a name; compute them at the first call."""
        if name not in self.feature_cache:
            self.feature_cache[name] = compute()
        return self.feature_cache[name]

    @cached_property
    def feature_cache(self) -> dict[str, Features]:
        """Return the features computed so far, by name."""
        return {}

    @cached_property
    def flow(self) -> FlowStatistics:
        """Return statistics of the optical flow between neighbouring frames."""
        return flow_statistics(self.clip.frames)

    @cached_property
    def tracks(self) -> Tracks:
        """Return the tracks of points through the clip."""
        return find_tracks(self.small_frames)

    @cached_property
    def small_frames(self) -> NDArray[np.uint8]:
        """Return the frames at the size at which points are tracked."""
        return shrunk_frames(self.clip.frames)

    @cached_property
    def pair_errors(self) -> PairErrors:
        """Return the warping errors of neighbouring frames."""
        return pair_errors(self.flow)

    @cached_property
    def colours(self) -> Colours:
        """Return brightness, contrast and saturation of the frames."""
        return colours(self.clip.frames)

    @cached_property
    def frame_differences(self) -> NDArray[np.float64]:
        """Return the mean absolute difference of neighbouring frames `(F - 1,)`, in levels of 0..255."""
        import cv2

        pairs = pairwise(self.clip.frames)
        return np.array([cv2.norm(first, second, cv2.NORM_L1) / first.size for first, second in pairs])

    @cached_property
    def reading(self) -> oracle.Reading:
        """Return the reading of the synthetic world's oracle."""
        return oracle.read(self.clip.frames)

    @cached_property
    def dual_features(self) -> Features:
        """Return unit features `(D,)` of the clip by the dual encoder of the synthetic world."""
        return shipped_encoder().clip(self.clip.frames)

    @property
    def frame_intervals(self) -> NDArray[np.float64]:
        """Return the time from each frame to the next in seconds, `(F - 1,)`: as stated by the file, else constant."""
        times = self.clip.provenance.get("times") or []
        if len(times) == len(self.clip.frames):
            return np.diff(times)
        return np.full(len(self.clip.frames) - 1, 1 / self.clip.fps)
