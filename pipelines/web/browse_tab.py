"""The tab *Browse*: the clips of a sweep or an evaluation."""

import gradio as gr

from vidguide.pipelines.web.server import Server


def browse_tab(server: Server) -> None:
    """Add the content of the tab."""
    gr.HTML("<p>Browse</p>")
