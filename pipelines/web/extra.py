"""The packages that the page needs."""

from importlib.util import find_spec


def require() -> None:
    """Refuse to serve without the extra, with an ImportError that names it."""
    if find_spec("gradio") is None:
        raise ImportError('the page needs gradio, which is not installed: pip install "vidguide[web]"')
