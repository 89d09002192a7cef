"""Components of the page that the tabs share: HTML, and errors of the library."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

PLAIN = (ValueError, TypeError, OSError, LookupError, ImportError, FloatingPointError)


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show an error of the library on the page as it is; the page takes it for HTML, so it is escaped.

    Those that a request cannot cause are printed on the server too.
    """
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        text, known = html.escape(str(error) or type(error).__name__), isinstance(error, PLAIN)
        raise gr.Error(text, duration=None, title="Error", print_exception=not known) from error


def plain_html(value: str, name: str) -> Any:
    """Return a component of HTML without the styles that Gradio gives to text.

    Args:
        value: HTML, in which texts of others are escaped.
        name: id of the element.
    """
    return gr.HTML(value, elem_id=name, apply_default_css=False)
