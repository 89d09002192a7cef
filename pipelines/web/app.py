"""The page: its tabs, and how it is served."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from vidguide.pipelines.web.browse_tab import browse_tab
from vidguide.pipelines.web.players import read_static
from vidguide.pipelines.web.server import Server
from vidguide.pipelines.web.try_tab import try_tab
from vidguide.pipelines.web.vote_tab import vote_tab

TABS = {"Try": try_tab, "Browse": browse_tab, "Vote": vote_tab}
SCRIPTS, STYLES = ("players.js", "editor.js", "vote.js"), ("players.css", "editor.css", "vote.css")
MAX_WAITING = 100  # requests in the queue; further ones are refused
UPLOADS = (600, 3600)  # seconds between two removals of uploaded files, and their age
MAX_UPLOAD = "1mb"  # of a clip's JSON


def build(server: Server, tabs: Sequence[str] = tuple(TABS)) -> gr.Blocks:
    """Return the page of a server with some of the `TABS`."""
    page = gr.Blocks(title="vidguide", analytics_enabled=False, fill_width=True, delete_cache=UPLOADS)
    with page, gr.Tabs():
        for name in tabs:
            with gr.Tab(name, id=name.lower()):
                TABS[name](server)
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    return page


def launch(server: Server, page: gr.Blocks, **options: Any) -> Any:
    """Serve a page; the options are those of :meth:`gradio.Blocks.launch`."""
    return page.launch(
        allowed_paths=[str(server.files.folder)],
        max_file_size=MAX_UPLOAD,
        show_error=True,
        ssr_mode=False,
        footer_links=[],
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head=f"<script>{read_static(*SCRIPTS)}</script>",
        css=read_static(*STYLES),
        **options,
    )
