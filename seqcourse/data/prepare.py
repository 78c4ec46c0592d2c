"""Turn public archives of thousands of small files into the one file per split that the loaders read.

The prepared form is a function of the archive's content alone: sorted, LF line ends, no time stamps. Members
are read, never extracted, so that no path in an archive can reach outside the cache.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from seqcourse.data.source import DataUnavailable

Members = dict[str, bytes]


def read_members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """The regular files in a tar.gz whose whole name matches `pattern`, as (its first group, content)."""
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            match = re.fullmatch(pattern, member.name)
            stream = tar.extractfile(member) if match and member.isfile() else None
            if match and stream:
                yield match[1], stream.read()


def fingerprint(members: Members) -> str:
    """sha256 over the sorted lines "name sha256(content)": the same for every packing of the same files."""
    lines = sorted(f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in members.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_fingerprint(archive: Path, members: Members, expected: str) -> None:
    """Refuse an archive whose files are not the expected ones.

    Raises:
        DataUnavailable: The fingerprints differ. Both are named.
    """
    got = fingerprint(members)
    if got != expected:
        raise DataUnavailable(
            f"{archive.name}: its {len(members):,} files are not the expected ones\n"
            f"    expected content fingerprint: {expected}\n    got content fingerprint:      {got}"
        )


def write_gzip(path: Path, content: bytes) -> None:
    """Compress without name and time stamp, so that equal content gives equal files."""
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write(content)


def build_imdb(archive: Path, into: Path, expected_fingerprint: str) -> None:
    """`aclImdb_v1.tar.gz` to `imdb_train.csv.gz` and `imdb_test.csv.gz` (columns label, stars, id, text).

    Source: Maas et al. (2011), https://ai.stanford.edu/~amaas/data/sentiment/.

    Args:
        archive: The public archive with `aclImdb/{train,test}/{neg,pos}/ID_STARS.txt`.
        into: Folder for the two files.
        expected_fingerprint: Digest over the labelled reviews, see `fingerprint`.
    """
    pattern = r"aclImdb/((train|test)/(neg|pos)/\d+_\d+\.txt)"
    members = dict(read_members(archive, pattern))
    check_fingerprint(archive, members, expected_fingerprint)
    for split in ("train", "test"):
        chosen = {name: text for name, text in members.items() if name.startswith(f"{split}/")}
        write_gzip(into / f"imdb_{split}.csv.gz", _reviews_table(chosen))


def _reviews_table(members: Members) -> bytes:
    rows = []
    for name, text in members.items():
        _, label, file_name = name.split("/")
        number, stars = file_name.removesuffix(".txt").split("_")
        rows.append((label, int(stars), int(number), text.decode("utf-8")))
    rows.sort(key=lambda row: (row[0], row[2]))
    return _table(("label", "stars", "id", "text"), rows)


def _table(header: tuple[str, ...], rows: list[tuple]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def build_physionet(archive: Path, into: Path, expected_fingerprint: str = "") -> None:
    """`set-a.tar.gz` (or b, c) to one long table `set-a.csv.gz` (RecordID, minute, parameter, value).

    Source: Silva et al. (2012), https://physionet.org/content/challenge-2012/1.0.0/.

    Args:
        archive: The public archive with one `RECORD.txt` per stay: lines "HH:MM,parameter,value".
        into: Folder for the table.
        expected_fingerprint: Checked where given; the public archive has a pinned sha256 of its own.
    """
    members = dict(read_members(archive, r"(?:.*/)?(\d+)\.txt"))
    if expected_fingerprint:
        check_fingerprint(archive, members, expected_fingerprint)
    lines = ["RecordID,minute,parameter,value"]
    for record in sorted(members, key=int):
        lines.extend(_stay_lines(record, members[record].decode("ascii")))
    name = archive.name.removesuffix(".tar.gz")
    write_gzip(into / f"{name}.csv.gz", ("\n".join(lines) + "\n").encode("ascii"))


def _stay_lines(record: str, text: str) -> Iterator[str]:
    for line in text.splitlines()[1:]:  # the first line is the header
        clock, parameter, value = line.split(",")
        hours, minutes = clock.split(":")
        yield f"{record},{int(hours) * 60 + int(minutes)},{parameter},{value}"


def build_spoken_digits(archive: Path, into: Path, expected_fingerprint: str) -> None:
    """A release of the Free Spoken Digit Dataset to `recordings.tar.gz`, which holds the wav files alone.

    GitHub does not promise that a release's archive keeps its bytes: the fingerprint over the recordings
    decides.

    Args:
        archive: The release, with `.../recordings/DIGIT_SPEAKER_NUMBER.wav`.
        into: Folder for the new archive.
        expected_fingerprint: Digest over the recordings, see `fingerprint`.
    """
    pattern = r"(?:.*/)?(recordings/\d_[a-z]+_\d+\.wav)"
    members = dict(read_members(archive, pattern))
    check_fingerprint(archive, members, expected_fingerprint)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            member = tarfile.TarInfo(name)
            member.size = len(members[name])
            tar.addfile(member, io.BytesIO(members[name]))
    write_gzip(into / "recordings.tar.gz", packed.getvalue())


# Data set -> how its archives become its prepared files.
BUILDERS: dict[str, Callable[[Path, Path, str], None]] = {
    "imdb": build_imdb,
    "physionet2012": build_physionet,
    "fsdd": build_spoken_digits,
}
