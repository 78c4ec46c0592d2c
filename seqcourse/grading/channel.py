"""Messages between the grader and its sandbox: JSON, length first, over a Unix socket, with file descriptors.

What comes out of a sandbox was perhaps written by a student. It is JSON, never pickle, has a greatest size and
must come before a deadline.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

LARGEST = 16 * 2**20
_HEAD = struct.Struct(">I")

# Captured here: in a process that runs student code, a patched json.dumps must not write the grader's messages.
_dumps, _loads = json.dumps, json.loads
_send_fds, _recv_fds = socket.send_fds, socket.recv_fds


class Closed(Exception):
    """The other side is gone."""


class Forged(Exception):
    """What came is no message of ours."""


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message, with file descriptors.

    Raises:
        Closed: Nobody listens any more.
    """
    data = _dumps(message).encode()
    try:
        if fds:
            _send_fds(sock, [_HEAD.pack(len(data))], list(fds))
        else:
            sock.sendall(_HEAD.pack(len(data)))
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed(str(error)) from error


def receive(
    sock: socket.socket, wait: Callable[[], None] = lambda: None, max_fds: int = 0
) -> tuple[dict[str, Any], list[int]]:
    """The next message and its file descriptors.

    Args:
        sock: Where to read.
        wait: Called before every read; may raise to give up (deadline, too much memory ...).
        max_fds: File descriptors to accept. The grader accepts none, so that a student cannot use up its own.

    Raises:
        Closed: The other side is gone.
        Forged: The bytes are no message: too long, not JSON, not an object.
    """
    head, fds = _read_head(sock, wait, max_fds)
    (length,) = _HEAD.unpack(head)
    if length > LARGEST:
        raise Forged(f"expected at most {LARGEST:,} bytes, got {length:,}")
    try:
        message = _loads(_read(sock, length, wait))
    except (ValueError, RecursionError) as error:
        raise Forged(f"expected JSON: {error}") from error
    if not isinstance(message, dict):
        raise Forged(f"expected an object, got {type(message).__name__}")
    return message, fds


def _read_head(sock: socket.socket, wait: Callable[[], None], max_fds: int) -> tuple[bytes, list[int]]:
    """The four bytes of the length, and the file descriptors that travel with the first of them."""
    wait()
    try:
        first, fds, _, _ = (
            _recv_fds(sock, _HEAD.size, max_fds) if max_fds else (sock.recv(_HEAD.size), [], 0, None)
        )
    except ConnectionResetError as error:
        raise Closed(str(error)) from error
    if not first:
        raise Closed("end of file")
    return first + _read(sock, _HEAD.size - len(first), wait), list(fds)


def _read(sock: socket.socket, length: int, wait: Callable[[], None]) -> bytes:
    parts = []
    while length:
        wait()
        try:
            part = sock.recv(min(length, 1 << 16))
        except ConnectionResetError as error:
            raise Closed(str(error)) from error
        if not part:
            raise Closed("end of file")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
