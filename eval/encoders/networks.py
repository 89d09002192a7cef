"""Networks by kind, loaded when they are first used; each worker of an evaluation loads its own."""

from collections.abc import Iterator, Mapping

from vidguide.eval.encoders.load import load
from vidguide.eval.encoders.transformers import Encoder


class Networks(Mapping[str, Encoder]):
    """Encoders by kind, from their folders, files or hub ids. Pickled without the loaded networks."""

    def __init__(self, models: Mapping[str, str], device: str = "cpu") -> None:
        """Create the mapping, without loading anything.

        Args:
            models: by kind, as for :func:`vidguide.eval.encoders.load.load`.
            device: of the networks.
        """
        self.models, self.device = dict(models), device
        self._loaded: dict[str, Encoder] = {}

    def __getitem__(self, kind: str) -> Encoder:
        if kind not in self._loaded:
            self._loaded[kind] = load(kind, self.models[kind], self.device)
        return self._loaded[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __reduce__(self) -> tuple[type["Networks"], tuple[dict[str, str], str]]:
        return Networks, (self.models, self.device)
