"""Errors of the library, as the page shows them."""

import html
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

PLAIN = (ValueError, TypeError, OSError, LookupError, ImportError, FloatingPointError)


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show an error of the library on the page as it is; the page takes it for HTML, so it is escaped."""
    try:
        yield
    except PLAIN as error:
        raise gr.Error(html.escape(str(error)), duration=None, title="Error", print_exception=False) from error
