"""SHA-256 hashes of files, model parameters and settings, as stored with every result."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK_BYTES = 1 << 20
SHORT = 16  # hexadecimal digits of an abbreviated hash


def sha256(chunks: Iterable[bytes]) -> str:
    """Return the SHA-256 of the concatenated chunks as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def short_sha256(chunks: Iterable[bytes]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the concatenated chunks."""
    return sha256(chunks)[:SHORT]


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of 1 MiB."""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block
