"""Get the files of the registry: from the cache, a mirror or the public place, and check every byte.

Environment:
    SEQCOURSE_DATA_DIR: the cache (default: the operating system's cache folder, as pooch finds it).
    SEQCOURSE_MIRROR: a folder or a URL laid out like the registry's paths; asked before the public places.
    SEQCOURSE_OFFLINE: 1 means no network; cache and mirror folder are still used.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import shutil
import tarfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from seqcourse.data import prepare
from seqcourse.data.download import DownloadFailed, HostUnreachable, Patience, ResumingDownloader
from seqcourse.data.registry import Dataset, File
from seqcourse.data.source import DataUnavailable


class WrongHash(DataUnavailable):
    """A file came whole, but with another content than the registry pins."""


class CacheNotWritable(DataUnavailable):
    """The cache folder cannot be read or written."""


def content_digest(path: Path, file: File) -> str:
    """sha256 of the content as the registry pins it; of a prepared file, of its uncompressed bytes."""
    if not file.uncompressed_sha256:
        return _sha256(path)
    digest = hashlib.sha256()
    try:
        with gzip.open(path) as stream:
            for chunk in iter(functools.partial(stream.read, 1 << 20), b""):
                digest.update(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as problem:
        return f"none, for it is no whole gzip file ({problem})"
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_intact(path: Path, file: File) -> bool:
    """Whether `path` exists and holds the content of `file`."""
    if not path.is_file():
        return False
    if file.bytes_may_change:
        return True  # only a step on the way: what is built from it is checked
    if _sha256(path) == file.sha256:
        return True
    return bool(file.uncompressed_sha256) and content_digest(path, file) == file.uncompressed_sha256


@dataclass(frozen=True)
class Store:
    """The cache on this machine and the places from which it is filled.

    Args:
        directory: The cache.
        mirror: A folder or a URL that offers the files under their registry paths, or empty.
        offline: Do not use the network.
        patience: Time-outs and retries.
    """

    directory: Path
    mirror: str = ""
    offline: bool = False
    patience: Patience = field(default_factory=Patience)

    @classmethod
    def from_environment(cls, directory: str | Path | None = None) -> Store:
        """The store that the environment variables describe; `directory` overrides the cache folder."""
        chosen = directory or os.environ.get("SEQCOURSE_DATA_DIR") or _default_cache()
        offline = os.environ.get("SEQCOURSE_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")
        return cls(Path(chosen).expanduser(), os.environ.get("SEQCOURSE_MIRROR", "").strip(), offline)

    def path(self, file: File) -> Path:
        """Where the cache keeps `file`, whether it is there or not."""
        return self.directory / file.path

    def state(self, file: File) -> str:
        """Where `file` is: "cached", in the "mirror" (a folder) or "missing". A quick look, no hashes."""
        if self.path(file).is_file():
            return "cached"
        in_mirror = self._mirror_folder and (self._mirror_folder / file.path).is_file()
        return "mirror" if in_mirror else "missing"

    def verify(self, file: File) -> str:
        """Check a cached file to the last byte: "ok", "missing", or "damaged: ..." with both digests."""
        path = self.path(file)
        if not path.is_file():
            return "missing"
        if is_intact(path, file):
            return "ok"
        got = content_digest(path, file)
        return f"damaged: {path}\n    expected sha256: {file.content_sha256}\n    got sha256:      {got}"

    def obtain(self, dataset: Dataset, files: tuple[File, ...] | None = None) -> dict[str, Path]:
        """Paths of the files of `dataset` (or of `files` among them), by registry path, every one checked.

        Raises:
            DataUnavailable: Neither cache nor mirror nor network has a file; names the places tried and why
                each failed. `WrongHash` and `CacheNotWritable` are its special cases.
        """
        wanted = dataset.content if files is None else files
        return {file.path: self._obtain(dataset, file) for file in wanted}

    def forget_failures(self) -> None:
        """Try every host again, even one that could not be reached a moment ago."""
        shutil.rmtree(self._markers, ignore_errors=True)

    def _obtain(self, dataset: Dataset, file: File) -> Path:
        final = self.path(file)
        with self._clear_errors():
            if is_intact(final, file):
                return final
            with self._lock(dataset):
                if not is_intact(final, file):  # another process may have brought it while this one waited
                    self._fill(dataset, file)
        return final

    def _lock(self, dataset: Dataset) -> AbstractContextManager:
        """One writer per data set among all processes; the system releases the lock of a killed one."""
        import filelock

        locks = self.directory / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(locks / f"{dataset.name}.lock")

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CacheNotWritable(
                f"the data folder {self.directory} cannot be read or written: {error}.\n"
                "What to do: set SEQCOURSE_DATA_DIR to a folder of yours with enough free space."
            ) from error

    def _fill(self, dataset: Dataset, file: File) -> None:
        """Bring `file` into the cache from the first place that has it intact."""
        final = self.path(file)
        if final.is_file():
            warnings.warn(f"{final} is damaged (its sha256 differs); it is fetched anew.", stacklevel=2)
        problems: list[tuple[str, DataUnavailable]] = []
        for name, bring in self._places(dataset, file):
            try:
                bring()
                shutil.rmtree(self._incoming(file), ignore_errors=True)
                return
            except CacheNotWritable:
                raise
            except DataUnavailable as problem:
                problems.append((name, problem))
        raise self._unavailable(dataset, file, problems)

    def _places(self, dataset: Dataset, file: File) -> Iterator[tuple[str, Callable[[], None]]]:
        if self._mirror_folder:
            path = self._mirror_folder / file.path
            yield f"mirror {path}", functools.partial(self._copy, path, file)
        if not self.offline:
            mirror = (
                [] if self._mirror_folder or not self.mirror else [f"{self.mirror.rstrip('/')}/{file.path}"]
            )
            for url in (*mirror, *file.urls):
                yield url, functools.partial(self._download, url, file)
        if file.built_from:
            yield f"built from {file.built_from}", functools.partial(self._build, dataset, file)

    @property
    def _mirror_folder(self) -> Path | None:
        if self.mirror.startswith("file://"):
            return Path(unquote(urlsplit(self.mirror).path))
        is_folder = self.mirror and "://" not in self.mirror
        return Path(self.mirror).expanduser() if is_folder else None

    def _copy(self, path: Path, file: File) -> None:
        if not path.is_file():
            raise DataUnavailable("no such file")
        copy = self._staging(file) / "copy"
        shutil.copyfile(path, copy)
        self._accept(copy, file)

    def _download(self, url: str, file: File) -> None:
        """Download, check, accept. A wrong hash gets one clean restart: the part may have been another's."""
        self._check_reachable(url)
        for _ in range(2):
            got = self._retrieve(url, file)
            if is_intact(got, file):
                break
        self._accept(got, file)

    def _retrieve(self, url: str, file: File) -> Path:
        import pooch

        staging = self._staging(file)
        pooch.get_logger().setLevel("WARNING")  # the progress bar says the same in one line
        size = None if file.bytes_may_change or file.kind == "prepared" else file.bytes
        downloader = ResumingDownloader(staging / "part", size, self.patience)
        try:
            # No known_hash: `_accept` checks, also prepared files, whose compressed bytes may differ.
            return Path(pooch.retrieve(url, None, fname="whole", path=staging, downloader=downloader))
        except HostUnreachable as error:
            self._remember_unreachable(url)
            raise DataUnavailable(str(error)) from error
        except DownloadFailed as error:
            raise DataUnavailable(str(error)) from error

    def _build(self, dataset: Dataset, file: File) -> None:
        """Build `file`, and what else its archive holds, from the public archive."""
        archive = dataset.file(file.built_from)
        source = self.path(archive)
        if not is_intact(source, archive):
            self._fill(dataset, archive)
        siblings = [other for other in dataset.content if other.built_from == archive.path]
        folder = self._staging(archive)
        try:
            prepare.BUILDERS[dataset.name](source, folder, archive.content_fingerprint)
            for other in siblings:
                self._accept(folder / other.name, other)
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
            raise DataUnavailable(f"{archive.path} is not a whole archive ({error})") from error
        finally:
            source.unlink()  # good, and no longer needed; or bad, and to be fetched anew
            shutil.rmtree(folder)

    def _incoming(self, file: File) -> Path:
        return self.directory / ".incoming" / file.path.replace("/", "__")

    def _staging(self, file: File) -> Path:
        """A folder in the cache for the unfinished `file`; of an earlier run it keeps only the part."""
        folder = self._incoming(file)
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.iterdir():
            if leftover.name != "part":
                leftover.unlink()
        return folder

    def _accept(self, path: Path, file: File) -> None:
        """Check `path` and give it its final name in one step, or delete it.

        Raises:
            WrongHash: The content is not the pinned one.
        """
        if not is_intact(path, file):
            got, size = content_digest(path, file), path.stat().st_size
            path.unlink()
            raise WrongHash(
                f"the content is not the expected one ({size:,} bytes, expected {file.bytes:,})\n"
                f"    expected sha256: {file.content_sha256}\n    got sha256:      {got}"
            )
        final = self.path(file)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, final)

    @property
    def _markers(self) -> Path:
        return self.directory / ".unreachable"

    def _marker(self, url: str) -> Path:
        return self._markers / urlsplit(url).netloc.replace(":", "_")

    def _remember_unreachable(self, url: str) -> None:
        """Leave a note for every other process and notebook, so that a missing network costs one time-out."""
        self._markers.mkdir(parents=True, exist_ok=True)
        self._marker(url).touch()

    def _check_reachable(self, url: str) -> None:
        marker = self._marker(url)
        age = time.time() - marker.stat().st_mtime if marker.exists() else self.patience.remember
        if age < self.patience.remember:
            raise DataUnavailable(
                f"the host could not be reached {age:.0f} s ago; it is tried again after "
                f"{self.patience.remember:.0f} s, or at once by `seqcourse data fetch`"
            )

    def _unavailable(
        self, dataset: Dataset, file: File, problems: list[tuple[str, DataUnavailable]]
    ) -> DataUnavailable:
        """One error that says which file, where it was looked for, why each place failed, and what to do."""
        tried = [f"  {name}: {problem}" for name, problem in problems]
        if self.offline:
            tried.append("  network: not used, because SEQCOURSE_OFFLINE is set")
        wrong = any(isinstance(problem, WrongHash) for _, problem in problems)
        state = "was found only with a wrong sha256" if wrong else "could not be obtained"
        # The first line is the same on every machine: a stand-in's card repeats it.
        head = f"{file.path} of the data set {dataset.name!r} {state}."
        advice = _CHANGED_FILE if wrong else _NO_FILE.format(name=dataset.name)
        return (WrongHash if wrong else DataUnavailable)("\n".join([head, *tried, f"What to do: {advice}"]))


_CHANGED_FILE = (
    "Try once more. If the same hash comes again, the publisher has changed the file, or something between "
    "you and the publisher answers in its place: use another network or a mirror, and please report it."
)
_NO_FILE = (
    "With a network, run `seqcourse data fetch {name}`; or set SEQCOURSE_MIRROR to a folder or URL that has "
    "the file; or work with generated data (generated=True)."
)


def _default_cache() -> str:
    import pooch

    return str(pooch.os_cache("seqcourse"))
