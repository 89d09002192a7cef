"""Progress bars of the libraries that load models and sample: bars on a terminal or in a notebook, otherwise lines."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# Module, and the names of its functions: whether bars are shown, hide them, show them.
LIBRARIES = (
    ("diffusers.utils.logging", "is_progress_bar_enabled", "disable_progress_bar", "enable_progress_bar"),
    ("transformers.utils.logging", "is_progress_bar_enabled", "disable_progress_bar", "enable_progress_bar"),
)
HUB = "huggingface_hub.utils"
INTERVAL = 30.0  # seconds between two lines in a file or a pipe


def shows_bars() -> bool:
    """Return whether standard error shows a moving bar: a terminal or a notebook does, a file or a pipe does not."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class LinesFile:
    """File for a tqdm bar that prints each state of the bar as a line of standard error."""

    def write(self, text: str) -> None:
        """Print what is no control character."""
        if line := text.strip():
            print(line, file=sys.stderr)

    def flush(self) -> None:
        """Flush standard error."""
        sys.stderr.flush()


def step_bars(shown: bool) -> dict[str, Any]:
    """Return the arguments of a pipeline's `set_progress_bar_config`.

    Args:
        shown: False for no bar. Where standard error shows no bars, a line every 30 seconds takes their place.
    """
    if not shown or shows_bars():
        return {"disable": not shown}
    timing = dict(mininterval=INTERVAL, maxinterval=INTERVAL, delay=INTERVAL)
    return {"file": LinesFile(), "bar_format": "{n_fmt} of {total_fmt} steps, {elapsed}", **timing}


@contextmanager
def loading_bars(shown: bool) -> Iterator[None]:
    """Leave the progress bars of diffusers, transformers and huggingface_hub as they are, or hide them in the context.

    Args:
        shown: False to hide them, as where standard error shows no bars; their state is restored at exit.
    """
    with ExitStack() as stack:
        if not (shown and shows_bars()):
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
