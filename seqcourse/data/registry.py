"""The registry: which files a data set has, where they are, what their bytes are, whose they are."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.resources
import json
from dataclasses import dataclass, field
from typing import Any

from seqcourse.data.source import Source


@dataclass(frozen=True)
class File:
    """One file of the registry.

    Args:
        path: Place in the cache and in a mirror, such as `imdb/imdb_train.csv.gz`.
        kind: "plain" (a public file), "archive" (public, only used to build others) or "prepared" (built).
        sha256: Digest of the file's bytes.
        bytes: Size of the file.
        urls: Public places, tried in turn.
        built_from: Path of the archive from which a prepared file is built.
        uncompressed_sha256: Digest of a prepared file's uncompressed bytes. It decides, because another
            version of zlib may write other compressed bytes.
        content_fingerprint: Digest over the names and digests of the files inside an archive.
        bytes_may_change: The host does not promise the same bytes tomorrow; the fingerprint decides.
        counts: Facts about the content (lines, rows, ...), which the tests assert.
    """

    path: str
    kind: str
    sha256: str
    bytes: int
    urls: tuple[str, ...] = ()
    built_from: str = ""
    uncompressed_sha256: str = ""
    content_fingerprint: str = ""
    bytes_may_change: bool = False
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path inside the data set's folder."""
        return self.path.split("/", 1)[1]

    @property
    def content_sha256(self) -> str:
        """The digest that identifies the content, whatever compressed it."""
        return self.uncompressed_sha256 or self.sha256


@dataclass(frozen=True)
class Dataset:
    """A data set: what it is for, its terms and its files. `book` tells whether the book's pages need it."""

    name: str
    about: str
    licence: str
    citation: str
    note: str
    book: bool
    files: tuple[File, ...]

    @property
    def content(self) -> tuple[File, ...]:
        """The files that a loader reads, which are all but the archives."""
        return tuple(file for file in self.files if file.kind != "archive")

    @property
    def bytes(self) -> int:
        """Size of the files that a loader reads."""
        return sum(file.bytes for file in self.content)

    def file(self, path: str) -> File:
        """The file with this path."""
        return next(file for file in self.files if file.path == path)

    def source(self, files: tuple[File, ...] | None = None, note: str = "") -> Source:
        """The card of the real data, with one digest over all `files` (default: all that a loader reads)."""
        files = self.content if files is None else files
        notes = " ".join(part for part in (self.note, note) if part)
        return Source(self.name, False, digest_of(files), self.citation, self.licence, notes)


def digest_of(files: tuple[File, ...]) -> str:
    """The content digest of one file; of several, sha256 over the sorted lines "path sha256"."""
    if len(files) == 1:
        return files[0].content_sha256
    lines = sorted(f"{file.path} {file.content_sha256}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _file(entry: dict[str, Any]) -> File:
    return File(**{**entry, "urls": tuple(entry.get("urls", ()))})


@functools.cache
def datasets() -> dict[str, Dataset]:
    """Every data set of the registry, by name."""
    text = importlib.resources.files("seqcourse.data").joinpath("registry.json").read_text(encoding="utf-8")
    entries = json.loads(text)["datasets"]
    return {
        name: Dataset(name=name, **{**entry, "files": tuple(map(_file, entry["files"]))})
        for name, entry in entries.items()
    }


def dataset(name: str) -> Dataset:
    """The data set called `name`.

    Raises:
        ValueError: There is none of that name; the message lists those that exist.
    """
    known = datasets()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no data set is called {name!r}.{hint} Known: {', '.join(known)}")
    return known[name]
