"""The page of `vidguide serve` as a Space of Hugging Face, or by itself: python app.py."""

import contextlib
import importlib

with contextlib.suppress(ImportError):
    importlib.import_module("spaces")  # before torch, which it changes to lend a GPU for each request

from vidguide.pipelines.web.app import build, launch
from vidguide.pipelines.web.limits import Limits
from vidguide.pipelines.web.server import Server


def main() -> None:
    """Serve the shipped models, with limits that fit many visitors."""
    server = Server(models=("tiny-4step", "tiny"), limits=Limits(steps=50, frames=33, size=256))
    server.preload()
    launch(server, build(server))


if __name__ == "__main__":
    main()
