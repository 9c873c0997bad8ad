"""PNG files that declare a size, but do not hold the pixels."""

import struct
import zlib
from collections.abc import Iterable


def png_header(height: int, width: int) -> bytes:
    """A PNG file that ends after its header."""
    return _start(height, width) + b"\0\0\0\0IDAT"


def png(height: int, width: int, chunks: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A whole PNG file with these chunks between its header and its end."""
    parts = [_chunk(kind, data) for kind, data in chunks]
    return _start(height, width) + b"".join(parts) + _chunk(b"IEND", b"")


def _start(height: int, width: int) -> bytes:
    """The signature and the chunk of the header: 8-bit colours."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
