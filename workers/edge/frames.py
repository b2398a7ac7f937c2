"""The bytes between the agent and its model worker: length-prefixed frames over a socket pair.

A frame is `<B kind, I rows, I width, d seconds, I payload length>` and the payload: raw little-endian numbers, or UTF-8 text for
READY and ERROR. Bounded, no pickle. Both ends are the same version, because one starts the other from its own files.
"""

import socket
import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("<BIIdI")
MAX_FRAME_BYTES = 256 << 20


class Kind(IntEnum):
    READY = 1
    RUN = 2
    ANSWER = 3
    ERROR = 4
    MEMORY = 5


class Frame(NamedTuple):
    kind: int
    rows: int
    width: int
    seconds: float
    payload: bytearray


def send_frame(
    peer: socket.socket, kind: Kind, payload: bytes | memoryview = b"", *, rows: int = 0, width: int = 0, seconds: float = 0.0
) -> None:
    """Raises OSError where the peer is gone."""
    header = HEADER.pack(kind, rows, width, seconds, len(payload))
    if len(payload) <= 65_536:
        peer.sendall(b"".join((header, payload)))
    else:
        peer.sendall(header)
        peer.sendall(payload)


def receive_frame(peer: socket.socket) -> Frame:
    """Raises EOFError where the peer is gone, ValueError for a frame beyond the bound, TimeoutError."""
    kind, rows, width, seconds, length = HEADER.unpack(_receive(peer, HEADER.size))
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return Frame(kind, rows, width, seconds, _receive(peer, length))


def _receive(peer: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view, got = memoryview(data), 0
    while got < length:
        received = peer.recv_into(view[got:])
        if received == 0:
            raise EOFError
        got += received
    return data
