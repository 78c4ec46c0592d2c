"""One download over HTTP that survives bad networks: time-outs, retries with backoff, resume."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class HostUnreachable(OSError):
    """No connection to the host could be made at all: no network, no such host, or it refuses."""


class DownloadFailed(OSError):
    """The host answered, but the file did not come."""


class _Transient(Exception):
    """A failure that may be over at the next attempt."""


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try.

    Args:
        connect: Seconds to wait for a connection. It is tried once, so that a missing network shows at once.
        read: Seconds without a byte after which a connection counts as stalled.
        attempts: Number of attempts for a failure that may pass.
        backoff: Seconds before the second attempt, doubled before each further one.
        remember: Seconds for which a host that could not be reached is not tried again.
    """

    connect: float = 5.0
    read: float = 20.0
    attempts: int = 4
    backoff: float = 0.5
    remember: float = 300.0


class ResumingDownloader:
    """Downloader for `pooch.retrieve` that keeps what it has in `part` and goes on from there.

    The part file outlives a failed attempt and a killed process. A server that ignores `Range` sends the
    whole file, and then the part starts anew.

    Args:
        part: File for the bytes that have come so far.
        expected_bytes: Size of the whole file, or None if it is not known.
        patience: Time-outs and number of attempts.
    """

    def __init__(self, part: Path, expected_bytes: int | None, patience: Patience) -> None:
        self.part = part
        self.expected_bytes = expected_bytes
        self.patience = patience

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        """Bring `url` completely into `part`, then rename it to `output_file`.

        Raises:
            HostUnreachable: No connection could be made.
            DownloadFailed: The file did not come in `patience.attempts` attempts, or the server refuses it.
        """
        problem = self._attempt(url)
        for retry in range(self.patience.attempts - 1):
            if problem is None:
                break
            time.sleep(self.patience.backoff * 2**retry)
            problem = self._attempt(url)
        if problem is not None:
            raise DownloadFailed(f"{problem} ({self.patience.attempts} attempts)")
        os.replace(self.part, output_file)

    def _attempt(self, url: str) -> Exception | None:
        """The reason why this attempt failed, or None when the file is complete."""
        try:
            self._stream(url)
        except _Transient as problem:
            return problem
        return None

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _stream(self, url: str) -> None:
        import requests

        start = self._have()
        if start and start == self.expected_bytes:
            return  # killed between the last byte and the renaming
        # "identity": a server that compresses on the fly would make sizes and ranges meaningless.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        timeout = (self.patience.connect, self.patience.read)
        try:
            with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
                self._check_status(response)
                self._write(response, start)
        except requests.RequestException as error:
            raise _classify(error) from error
        self._check_complete()

    def _check_status(self, response: Any) -> None:
        code, reason = response.status_code, response.reason
        if code == 416:  # the part is longer than the file: it belongs to something else
            self.part.unlink(missing_ok=True)
        if code in (408, 416, 429) or code >= 500:
            raise _Transient(f"the server answered {code} {reason}")
        if code >= 400:
            raise DownloadFailed(f"the server answered {code} {reason}")

    def _write(self, response: Any, start: int) -> None:
        from tqdm import tqdm

        resumed = response.status_code == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            self.part.unlink(missing_ok=True)
            raise _Transient("the server sent another range than the one asked for")
        length = int(response.headers.get("Content-Length", 0))
        start = start if resumed else 0
        with (
            self.part.open("ab" if resumed else "wb") as part,
            tqdm(
                total=(start + length) or None,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=response.url.rsplit("/", 1)[-1],
                disable=_bar_is_unwanted(),
            ) as bar,
        ):
            for chunk in response.iter_content(chunk_size=1 << 16):
                part.write(chunk)
                bar.update(len(chunk))

    def _check_complete(self) -> None:
        have = self._have()
        if self.expected_bytes is None or have == self.expected_bytes:
            return
        raise _Transient(f"{have:,} of {self.expected_bytes:,} bytes came")


def _bar_is_unwanted() -> bool | None:
    # tqdm reads None as "off unless stderr is a terminal". JupyterLab is no terminal, but sets this variable;
    # a book build sets neither, and stays quiet.
    return False if "JPY_SESSION_NAME" in os.environ else None


def _classify(error: Any) -> Exception:
    """HostUnreachable if there was no connection, else a failure that may pass."""
    import requests
    import urllib3

    cause = getattr(error.args[0], "reason", None) if error.args else None
    no_connection = (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError)
    if isinstance(error, no_connection) or isinstance(cause, urllib3.exceptions.NewConnectionError):
        return HostUnreachable(f"no connection ({cause or error})")
    permanent = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
    if isinstance(error, (*permanent, requests.exceptions.SSLError, requests.exceptions.MissingSchema)):
        return DownloadFailed(str(error))
    return _Transient(f"the connection broke off or stalled ({type(error).__name__})")
