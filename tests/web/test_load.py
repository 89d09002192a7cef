"""Twenty visitors at once, of whom five leave: all others are served, and the process stays as it was."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

pytest.importorskip("gradio", reason="needs vidguide[web]")

from tests.helpers.web_page import NAG_FIELDS, assert_unchanged, serving, state_of
from vidguide import Setup
from vidguide.pipelines.web.limits import Limits
from vidguide.pipelines.web.server import Server

pytestmark = [pytest.mark.web, pytest.mark.timeout(1200), pytest.mark.filterwarnings("default")]
VISITORS, LEAVING = 20, (1, 2, 7, 12, 18)
MEMORY = 150 << 20  # bytes of growth at most, between the second and the third wave


@pytest.fixture(scope="module")
def server() -> Server:
    return Server(models=("tiny-4step",), limits=Limits(steps=8, frames=13), placement={"device": "cpu"})


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[str]:
    with serving(server) as address:
        yield address.rstrip("/")


def data(seed: int) -> list[Any]:
    """Return the values of the components, as the browser sends them; states are the server's."""
    variants = {"same_noise": True, "variants": [{"seed": 0, "guidances": [NAG_FIELDS]}]}
    return [json.dumps(variants), None, None, "tiny-4step", "a large circle", "red", seed, "2", "5", "", "", ""]


async def visit(client: Any, number: int, function: int, wave: str) -> dict[str, Any]:
    """Ask for a clip; return the last message, and whether the visitor waited. Some leave at the first message."""
    session = {"session_hash": f"{wave}-{number}"}
    await client.post("/gradio_api/queue/join", json={"data": data(number), "fn_index": function, **session})
    waited = False
    async with client.stream("GET", "/gradio_api/queue/data", params=session) as response:
        async for line in response.aiter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            waited = waited or (message.get("rank") or 0) > 0
            if number in LEAVING and message:
                return {"left": True}
            if message.get("msg") == "process_completed":
                return {**message, "waited": waited}
    raise AssertionError(f"visitor {number}: the stream ended")


async def wave(address: str, function: int, name: str, visitors: int = VISITORS) -> list[dict[str, Any]]:
    import httpx

    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        return list(await asyncio.gather(*(visit(client, number, function, name) for number in range(visitors))))


def sha256_of(address: str, message: dict[str, Any]) -> str:
    """Return the SHA-256 of the frames of the clip that a visitor got."""
    import httpx

    match = re.search(r'href="([^"]*\.json)"', str(message["output"]["data"][1]))
    assert match is not None, message
    return str(httpx.get(f"{address}/{match[1]}").json()["sha256"])


def test_twenty_visitors_of_whom_five_leave(server: Server, address: str) -> None:
    import httpx

    config = httpx.get(f"{address}/config").json()
    function = next(each["id"] for each in config["dependencies"] if each["api_name"] == "generate")
    [alone] = asyncio.run(
        wave(address, function, "alone", visitors=1)
    )  # a call leaves attributes on parts of diffusers
    with server.pipeline("tiny-4step", Setup()) as pipe:
        before = state_of(pipe)
    memory = []
    for name in ("first", "second", "third"):
        served = [each for each in asyncio.run(wave(address, function, name)) if "left" not in each]
        assert len(served) == VISITORS - len(LEAVING)
        assert all(each["success"] for each in served), [each["output"] for each in served if not each["success"]]
        assert all("done" in str(each["output"]["data"][0]) for each in served)
        assert sum(each["waited"] for each in served) > VISITORS // 2
        memory.append(psutil.Process().memory_info().rss)
    with server.pipeline("tiny-4step", Setup()) as pipe:
        assert_unchanged(before, state_of(pipe))
    assert memory[2] - memory[1] < MEMORY, memory
    [again] = asyncio.run(wave(address, function, "again", visitors=1))
    assert sha256_of(address, again) == sha256_of(address, alone)
    assert sum(thread.name == "sampling" for thread in threading.enumerate()) == 0


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "{folder}/../../etc/passwd", "{folder}/..%2f..%2fetc%2fpasswd", "{package}", "pyproject.toml"],
)
def test_no_other_files_are_served(server: Server, address: str, path: str) -> None:
    import httpx

    import vidguide

    target = path.format(folder=server.files.folder, package=vidguide.__file__)
    response = httpx.get(f"{address}/gradio_api/file={target}")
    assert response.status_code in (403, 404), target
    assert "root:" not in response.text
    url = server.files.add("kept.txt", lambda file: file.write_text("kept"), key="kept")
    assert httpx.get(f"{address}/gradio_api/file={url}").text == "kept"


def test_restoring_reads_uploaded_files_only(server: Server, address: str) -> None:
    import httpx

    config = httpx.get(f"{address}/config").json()
    function = next(each["id"] for each in config["dependencies"] if each["api_name"] == "restore")
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=address, timeout=60) as client:
        joined = client.post(
            "/gradio_api/queue/join", json={"data": [file], "fn_index": function, "session_hash": "reader"}
        )
        text = joined.text
        if joined.status_code == 200:
            text += client.get("/gradio_api/queue/data", params={"session_hash": "reader"}).text
    assert "root:" not in text
    assert '"success":true' not in text.replace(" ", "")
