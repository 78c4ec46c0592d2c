"""A local HTTP server that misbehaves on demand, for the download tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[["Handler", bytes], None]


class Server(ThreadingHTTPServer):
    """Serves `contents` (path -> bytes) as `behaviours` say: a list per path, the last one repeats."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents: dict[str, bytes] = {}
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.requests: list[tuple[str, str | None]] = []  # (path, Range header)
        self.released = threading.Event()  # ends stalls

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def serve(self, path: str, content: bytes, *behaviours: Behaviour) -> str:
        self.contents[path] = content
        self.behaviours[path] = list(behaviours) or [good]
        return f"{self.url}/{path}"

    def ranges(self, path: str) -> list[str | None]:
        return [range_ for asked, range_ in self.requests if asked == path]

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers GET with the next behaviour of the path."""

    server: Server

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.requests.append((path, self.headers.get("Range")))
        queue = self.server.behaviours.get(path, [status(404)])
        behaviour = queue.pop(0) if len(queue) > 1 else queue[0]
        behaviour(self, self.server.contents.get(path, b""))

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


def good(handler: Handler, content: bytes) -> None:
    """The whole file, or the range asked for."""
    wanted = handler.headers.get("Range")
    start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
    if wanted and start >= len(content):
        return handler.head(416, Content_Range=f"bytes */{len(content)}")
    if wanted:
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.head(206, Content_Length=len(content) - start, Content_Range=span)
    else:
        handler.head(200, Content_Length=len(content))
    handler.wfile.write(content[start:])


def ignores_range(handler: Handler, content: bytes) -> None:
    """The whole file, whatever was asked for."""
    handler.head(200, Content_Length=len(content))
    handler.wfile.write(content)


def wrong_range(handler: Handler, content: bytes) -> None:
    """206, but from another place than the one asked for."""
    handler.head(
        206, Content_Length=len(content) - 1, Content_Range=f"bytes 1-{len(content) - 1}/{len(content)}"
    )
    handler.wfile.write(content[1:])


def truncated(handler: Handler, content: bytes) -> None:
    """Promise everything, send half (from where it was asked to), hang up."""
    wanted = handler.headers.get("Range")
    start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
    rest = content[start:]
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    handler.head(
        206 if wanted else 200, Content_Length=len(rest), **({"Content_Range": span} if wanted else {})
    )
    handler.wfile.write(rest[: len(rest) // 2])


def corrupted(handler: Handler, content: bytes) -> None:
    """The right number of bytes, the last one wrong."""
    ignores_range(handler, content[:-1] + bytes([content[-1] ^ 1]))


def stalled(handler: Handler, content: bytes) -> None:
    """Half of the file, then nothing, but the line stays open."""
    handler.head(200, Content_Length=len(content))
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    handler.server.released.wait(30)


def slow(handler: Handler, content: bytes) -> None:
    """The file in a hundred pieces, a second in all."""
    handler.head(200, Content_Length=len(content))
    piece = len(content) // 100 + 1
    for start in range(0, len(content), piece):
        handler.wfile.write(content[start : start + piece])
        handler.wfile.flush()
        handler.server.released.wait(0.01)


def length_too_short(handler: Handler, content: bytes) -> None:
    """The header promises ten bytes fewer than are sent."""
    handler.head(200, Content_Length=len(content) - 10)
    handler.wfile.write(content)


def length_too_long(handler: Handler, content: bytes) -> None:
    """The header promises ten bytes more than are sent."""
    handler.head(200, Content_Length=len(content) + 10)
    handler.wfile.write(content)


def no_length(handler: Handler, content: bytes) -> None:
    """No length at all; the end of the connection ends the file."""
    handler.head(200)
    handler.wfile.write(content)


def status(code: int) -> Behaviour:
    """An error page."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.head(code, Content_Length=5)
        handler.wfile.write(b"sorry")

    return answer
