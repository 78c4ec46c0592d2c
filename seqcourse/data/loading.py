"""The policy of every loader: real data where they can be had, else a stand-in that says what it is."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqcourse.data.fetch import Store
from seqcourse.data.registry import File, dataset
from seqcourse.data.source import DataUnavailable, GeneratedDataWarning, Source

Files = dict[str, Path]


def real_or_generated(
    name: str,
    read: Callable[[Files, Source], Any],
    make: Callable[[], Any],
    *,
    generated: bool | None,
    cache_dir: str | Path | None,
    files: tuple[File, ...] | None = None,
) -> Any:
    """Load the data set `name`, or generate its stand-in, as `generated` asks.

    Args:
        name: Name in the registry.
        read: Builds the data from the checked files (name in the data set's folder -> path) and their card.
        make: Builds the stand-in.
        generated: None: real if cache, mirror or network has it, else the stand-in with a warning. True:
            always the stand-in. False: never.
        cache_dir: Cache folder; default as the environment says.
        files: The files needed, if not all.

    Raises:
        DataUnavailable: `generated` is False and the real data cannot be had.
        TypeError: `generated` is something else than None, True or False.
    """
    if generated not in (None, True, False):
        raise TypeError(f"generated must be None, True or False, got {generated!r}")
    entry = dataset(name)
    if generated:
        return _stand_in(make, f"Asked for with generated=True in place of {name!r}.")
    try:
        paths = Store.from_environment(cache_dir).obtain(entry, files)
    except DataUnavailable as problem:
        if generated is False:
            raise
        return _fall_back(name, make, problem)
    return read({path.split("/", 1)[1]: found for path, found in paths.items()}, entry.source(files))


def _fall_back(name: str, make: Callable[[], Any], problem: DataUnavailable) -> Any:
    # Only the first line, which names no path of this machine: it appears on pages and in records.
    reason = str(problem).splitlines()[0]
    warnings.warn(
        f"GENERATED data in place of {name!r}: {reason} Results on generated data say nothing about the real "
        f"data set. `seqcourse data fetch {name}` gets it; generated=False tells in full why it is not here.",
        GeneratedDataWarning,
        stacklevel=4,
    )
    return _stand_in(make, f"In place of {name!r}: {reason}")


def _stand_in(make: Callable[[], Any], why: str) -> Any:
    data = make()
    return replace(data, source=replace(data.source, note=f"{why} {data.source.note}".strip()))


def read_text(path: Path) -> str:
    """UTF-8 text of a plain or gzip file, with or without a byte order mark, line ends as LF."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return content.decode("utf-8-sig").replace("\r\n", "\n")
