"""Switch the progress bars of the libraries that load models off and on again."""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# Module, and the names of its functions: whether bars are shown, hide them, show them.
LIBRARIES = (
    ("diffusers.utils.logging", "is_progress_bar_enabled", "disable_progress_bar", "enable_progress_bar"),
    ("transformers.utils.logging", "is_progress_bar_enabled", "disable_progress_bar", "enable_progress_bar"),
)
HUB = "huggingface_hub.utils"


@contextmanager
def loading_bars(shown: bool) -> Iterator[None]:
    """Leave the progress bars of diffusers, transformers and huggingface_hub as they are, or hide them in the context.

    Args:
        shown: False to hide them; their state is restored at exit.
    """
    with ExitStack() as stack:
        if not shown:
            for name, is_shown, hide, show in LIBRARIES:
                library: Any = importlib.import_module(name)
                if getattr(library, is_shown)():
                    getattr(library, hide)()
                    stack.callback(getattr(library, show))
            hub: Any = importlib.import_module(HUB)
            if not hub.are_progress_bars_disabled():
                hub.disable_progress_bars()
                stack.callback(hub.enable_progress_bars)
        yield
