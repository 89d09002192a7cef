"""The tab *Try*: clips of one prompt with up to four guidances."""

import gradio as gr

from vidguide.pipelines.web.server import Server


def try_tab(server: Server) -> None:
    """Add the content of the tab."""
    gr.HTML("<p>Try</p>")
