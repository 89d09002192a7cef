"""What the page serves: the models it may load, one loaded pipeline, the folder to browse, and the limits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidguide.pipelines.loading.load import load, resolve
from vidguide.pipelines.request.call_settings import SETTINGS, pipeline_default
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.web.limits import Limits
from vidguide.pipelines.web.public_files import PublicFiles

DEFAULT_MODELS = ("tiny-4step", "tiny")


@dataclass(kw_only=True)
class Server:
    """State that all visitors share.

    Attributes:
        models: names that a request may ask for; the first is the default.
        folder: of a sweep or an evaluation, to browse; None for none.
        limits: of a request.
        placement: device, dtype, revision and setup, with which models are loaded.
        files: what the page may fetch.
        defaults: settings of the calls of pipelines that were loaded, by model.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    folder: Path | None = None
    limits: Limits = field(default_factory=Limits)
    placement: dict[str, Any] = field(default_factory=dict)
    files: PublicFiles = field(default_factory=PublicFiles)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("model=[]: must name at least one")
        for model in self.models:
            resolve(model)
        if self.folder is not None and not self.folder.is_dir():
            raise NotADirectoryError(f"folder={str(self.folder)!r}: must be a folder that a sweep or evaluation wrote")
        self._lock = threading.Lock()
        self._loaded: tuple[str, Setup, Any] | None = None

    @property
    def setup(self) -> Setup:
        """The setup that the server was started with."""
        setup: Setup = self.placement.get("setup") or Setup()
        return setup

    def preload(self) -> None:
        """Load the first model, so that the first request does not wait for it; raises as :meth:`pipeline`."""
        with self.pipeline(self.models[0], self.setup):
            pass

    def check_model(self, model: str) -> None:
        """Refuse a model that the server was not started with, with a ValueError."""
        if model not in self.models:
            raise ValueError(f"model={model!r}: this server has {', '.join(self.models)}")

    @contextmanager
    def pipeline(self, model: str, setup: Setup) -> Iterator[Any]:
        """Lend the pipeline of a model, to one request at a time; one model is loaded at a time.

        Raises:
            ValueError: the server was not started with it. Others: as :func:`load`.
        """
        self.check_model(model)
        with self._lock:
            if self._loaded is None or self._loaded[:2] != (model, setup):
                self._loaded = None  # before the next one is loaded, so that memory holds one
                pipe = load(model, progress=False, **{**self.placement, "setup": setup})
                self._loaded = (model, setup, pipe)
                self.defaults[model] = {name: pipeline_default(pipe, name) for name in SETTINGS}
            yield self._loaded[2]
