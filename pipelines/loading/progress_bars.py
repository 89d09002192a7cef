"""Progress bars of the libraries that load models, off for a while."""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# Module, whether its bars are on, how to put them off, and on again.
LIBRARIES = (
    ("diffusers.utils.logging", "is_progress_bar_enabled", "disable_progress_bar", "enable_progress_bar"),
    ("transformers.utils.logging", "is_progress_bar_enabled", "disable_progress_bar", "enable_progress_bar"),
)
HUB = "huggingface_hub.utils"


@contextmanager
def loading_bars(shown: bool) -> Iterator[None]:
    """Let diffusers, transformers and the hub show their bars, or none; afterwards they are as they were."""
    with ExitStack() as stack:
        if not shown:
            for name, enabled, off, on in LIBRARIES:
                library: Any = importlib.import_module(name)
                if getattr(library, enabled)():
                    getattr(library, off)()
                    stack.callback(getattr(library, on))
            hub: Any = importlib.import_module(HUB)
            if not hub.are_progress_bars_disabled():
                hub.disable_progress_bars()
                stack.callback(hub.enable_progress_bars)
        yield
