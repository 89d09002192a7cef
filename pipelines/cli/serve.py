"""The command `vidguide serve`: a page to try guidances and to browse clips."""

import contextlib
import errno
import socket
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from vidguide.eval.report.console import console
from vidguide.pipelines.cli.options import Device, Dtype, plain_errors
from vidguide.pipelines.cli.setup_options import setup_from, setup_options


@setup_options
def serve(
    options: dict[str, Any],
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder of a sweep or an evaluation, to browse and to vote on.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Model that the page offers; repeat for more. One is loaded at a time. Default: the shipped ones.",
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port. Default: the first free one from 7860 on.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for the network.")] = "127.0.0.1",
    share: Annotated[bool, typer.Option("--share", help="Open a public address through Gradio's servers.")] = False,
    vote_only: Annotated[
        bool, typer.Option("--vote-only", help="Only the tab Vote, for raters who must not see the variants' names.")
    ] = False,
    max_steps: Annotated[int, typer.Option(help="Most steps of a request.")] = 50,
    max_frames: Annotated[int, typer.Option(help="Most frames of a request.")] = 129,
    max_size: Annotated[int, typer.Option(help="Longest side of a request, in pixels.")] = 1280,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Serve a page to try guidances side by side, to browse a sweep, and to vote on its clips. Needs vidguide[web]."""
    with plain_errors():
        from vidguide.pipelines.web.extra import require

        require()
        check_address(host, port)
        from vidguide.pipelines.web.app import TABS, build, launch
        from vidguide.pipelines.web.limits import Limits
        from vidguide.pipelines.web.server import DEFAULT_MODELS, Server

        if vote_only and folder is None:
            raise ValueError("folder: is missing; --vote-only needs the folder of a sweep")
        placement: dict[str, Any] = dict(device=device, dtype=dtype, setup=setup_from(options))
        limits = Limits(steps=max_steps, frames=max_frames, size=max_size)
        server = Server(models=tuple(model or DEFAULT_MODELS), folder=folder, limits=limits, placement=placement)
        try:
            if not vote_only:
                server.preload()
            _, address, public = launch(
                server,
                build(server, ("Vote",) if vote_only else tuple(TABS)),
                server_name=host,
                server_port=port,
                share=share,
                quiet=True,
                prevent_thread_lock=True,
            )
            console.print(f"serving {public or address}; Ctrl-C ends it", markup=False, soft_wrap=True)
            wait()
        finally:
            server.files.close()


def check_address(host: str, port: int | None) -> None:
    """Refuse an address that cannot be listened on, before a model is loaded.

    Raises:
        OSError: naming the option.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise OSError(f"port={port}: is in use or not allowed ({error.strerror}); give another --port") from None
        raise OSError(f"host={host!r}: must be an address of this machine, such as 127.0.0.1 ({error})") from None


def wait() -> None:
    """Wait until the process is interrupted."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
