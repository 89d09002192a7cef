"""Components of the page that the tabs share: HTML, and errors of the library."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

SECONDS = 15  # that an error is shown above the page, where it covers controls
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
        raise gr.Error(text, duration=SECONDS, title="Error", print_exception=not known) from error


def message_of(error: gr.Error) -> str:
    """Return the text of an error that :func:`shown_errors` raised, not escaped."""
    return str(error.__cause__ or error) or type(error.__cause__).__name__


def plain_html(value: str, name: str) -> Any:
    """Return a component of HTML without the styles that Gradio gives to text.

    Args:
        value: HTML, in which texts of others are escaped.
        name: id of the element.
    """
    return gr.HTML(value, elem_id=name, apply_default_css=False)
