"""Structure of container formats where FFmpeg's frame count is not the number of frames, or where there is none."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

AVI_ENTRY = struct.Struct("<4sIII")  # of the index: stream and kind, flags, offset, size
SYNC = 0x47  # first byte of every packet of a transport stream
PACKET_BYTES = (188, 192, 204)  # plain, with a time stamp (.m2ts), with error correction
UNSTATED_LENGTH = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v"}  # formats without frame count and duration
LENGTH_WARNING = "the format does not state its length: frames missing at the end go unnoticed; convert it to .mkv"


def count_empty_avi_chunks(path: Path, stream: int) -> int:
    """Return how many chunks of a video stream in an AVI file are empty: each repeats the frame before it.

    A variable frame rate is written in this way; the frame count of the file includes such chunks.
    """
    prefix = f"{stream:02d}".encode()
    with path.open("rb") as file:
        for name, size in riff_chunks(file):
            if name == b"idx1":
                index = file.read(size)
                entries = AVI_ENTRY.iter_unpack(index[: len(index) // AVI_ENTRY.size * AVI_ENTRY.size])
                return sum(entry[0].startswith(prefix) and entry[3] == 0 for entry in entries)
    return 0


def riff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield name and size of each chunk of an AVI file, with the file at the start of its content."""
    position = 12
    while True:
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return
        size = int.from_bytes(header[4:], "little")
        yield header[:4], size
        position += 8 + size + size % 2


def cut_packet(path: Path) -> str:
    """Return how a transport stream ends within a packet; empty if it does not."""
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4 * max(PACKET_BYTES))
    for size in PACKET_BYTES:
        first = 4 if size == 192 else 0
        if len(head) > first + size and head[first] == head[first + size] == SYNC and length % size:
            return f"{length} bytes end within a packet of {size}"
    return ""
