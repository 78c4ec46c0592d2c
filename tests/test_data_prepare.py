"""Public archives of many small files become the prepared form, on tiny archives of the same layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace

import data_server as behave
import pytest
from test_data_fetch import QUICK, files_in, server, store  # noqa: F401 (fixtures)

from seqcourse.data import prepare
from seqcourse.data.fetch import Store, WrongHash
from seqcourse.data.registry import Dataset, File
from seqcourse.data.source import DataUnavailable

REVIEWS = {
    "aclImdb/train/pos/10_9.txt": 'Good, "really" good.',
    "aclImdb/train/pos/9_10.txt": "Even better.<br />Yes.",
    "aclImdb/train/neg/0_3.txt": "Bad.",
    "aclImdb/test/pos/0_7.txt": "Fine: café.",
    "aclImdb/test/neg/1_1.txt": "No.",
}
NOT_REVIEWS = {
    "aclImdb/train/unsup/0_0.txt": "No label.",
    "aclImdb/README": "About.",
    "../aclImdb/train/pos/1_9.txt": "A path that leads out.",
    "aclImdb/train/pos/1_9.txt.bak": "A left-over.",
    "aclImdb/train/pos/../../../../etc/1_9.txt": "Another one.",
}
TRAIN = (
    b'label,stars,id,text\nneg,3,0,Bad.\npos,10,9,Even better.<br />Yes.\npos,9,10,"Good, ""really"" good."\n'
)
TEST = "label,stars,id,text\nneg,1,1,No.\npos,7,0,Fine: café.\n".encode()
FINGERPRINT = prepare.fingerprint(
    {name.removeprefix("aclImdb/"): text.encode() for name, text in REVIEWS.items()}
)


def pack(members: dict[str, str | bytes], links: dict[str, str] | None = None) -> bytes:
    """A tar.gz of these members, and of symbolic links name -> target."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return packed.getvalue()


ARCHIVE = pack({**NOT_REVIEWS, **REVIEWS}, {"aclImdb/train/pos/2_9.txt": "/etc/passwd"})


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tiny_imdb(
    url: str, archive: bytes = ARCHIVE, fingerprint: str = FINGERPRINT, train: bytes = TRAIN
) -> Dataset:
    """A data set laid out as IMDB is in the registry; compressed digests are unknown, as for another zlib."""
    whole = File(
        "imdb/tiny.tar.gz", "archive", sha(archive), len(archive), (url,), content_fingerprint=fingerprint
    )
    parts = [
        File(
            f"imdb/imdb_{name}.csv.gz",
            "prepared",
            "0" * 64,
            len(content),
            built_from=whole.path,
            uncompressed_sha256=sha(content),
        )
        for name, content in (("train", train), ("test", TEST))
    ]
    return Dataset("imdb", "about", "licence", "citation", "note", False, (*parts, whole))


def test_fingerprint_ignores_packing_but_no_name_and_no_byte():
    members = {"a/1.txt": b"one", "a/2.txt": b"two"}
    lines = f"a/1.txt {sha(b'one')}\na/2.txt {sha(b'two')}"
    assert prepare.fingerprint(members) == sha(lines.encode())
    assert prepare.fingerprint(dict(reversed(members.items()))) == prepare.fingerprint(members)
    assert prepare.fingerprint({**members, "a/2.txt": b"tow"}) != prepare.fingerprint(members)
    assert prepare.fingerprint({"a/1.txt": b"one", "a/3.txt": b"two"}) != prepare.fingerprint(members)


def test_imdb_is_sorted_by_label_and_number_and_reads_nothing_else(tmp_path):
    (tmp_path / "tiny.tar.gz").write_bytes(ARCHIVE)
    prepare.build_imdb(tmp_path / "tiny.tar.gz", tmp_path, FINGERPRINT)
    assert gzip.decompress((tmp_path / "imdb_train.csv.gz").read_bytes()) == TRAIN
    assert gzip.decompress((tmp_path / "imdb_test.csv.gz").read_bytes()) == TEST
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "imdb_test.csv.gz",
        "imdb_train.csv.gz",
        "tiny.tar.gz",
    ]


def test_prepared_files_carry_no_name_and_no_time(tmp_path):
    prepare.write_gzip(tmp_path / "a.gz", b"content")
    header = (tmp_path / "a.gz").read_bytes()[:10]
    assert header[3] == 0  # no flag: no name, no comment
    assert header[4:8] == bytes(4)  # no time
    prepare.write_gzip(tmp_path / "b.gz", b"content")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_other_content_is_refused_with_both_fingerprints(tmp_path):
    changed = pack({**REVIEWS, "aclImdb/train/neg/0_3.txt": "Bad!"})
    (tmp_path / "tiny.tar.gz").write_bytes(changed)
    with pytest.raises(DataUnavailable, match=FINGERPRINT) as caught:
        prepare.build_imdb(tmp_path / "tiny.tar.gz", tmp_path, FINGERPRINT)
    changed_members = {**REVIEWS, "aclImdb/train/neg/0_3.txt": "Bad!"}
    got = prepare.fingerprint({k.removeprefix("aclImdb/"): v.encode() for k, v in changed_members.items()})
    assert got in str(caught.value)
    assert not (tmp_path / "imdb_train.csv.gz").exists()


def test_store_builds_both_files_from_one_download(server, store):  # noqa: F811
    dataset = tiny_imdb(server.serve("tiny.tar.gz", ARCHIVE))
    paths = store.obtain(dataset)
    assert gzip.decompress(paths["imdb/imdb_train.csv.gz"].read_bytes()) == TRAIN
    assert gzip.decompress(paths["imdb/imdb_test.csv.gz"].read_bytes()) == TEST
    assert server.ranges("tiny.tar.gz") == [None]
    assert files_in(store) == {"imdb/imdb_train.csv.gz", "imdb/imdb_test.csv.gz"}  # the archive is gone
    assert [store.verify(file) for file in dataset.content] == ["ok", "ok"]
    assert not any((store.directory / ".incoming").iterdir())


def test_mirror_may_offer_the_prepared_file(tmp_path, server, store):  # noqa: F811
    (tmp_path / "mirror/imdb").mkdir(parents=True)
    for name, content in (("train", TRAIN), ("test", TEST)):
        prepare.write_gzip(tmp_path / f"mirror/imdb/imdb_{name}.csv.gz", content)
    dataset = tiny_imdb(server.serve("tiny.tar.gz", ARCHIVE))
    paths = replace(store, mirror=str(tmp_path / "mirror")).obtain(dataset)
    assert gzip.decompress(paths["imdb/imdb_train.csv.gz"].read_bytes()) == TRAIN
    assert server.requests == []


@pytest.mark.parametrize("damage", [b"no gzip", gzip.compress(TRAIN)[:-9]], ids=["other", "cut"])
def test_damaged_prepared_file_is_built_anew(server, store, damage):  # noqa: F811
    dataset = tiny_imdb(server.serve("tiny.tar.gz", ARCHIVE))
    path = store.obtain(dataset)["imdb/imdb_train.csv.gz"]
    path.write_bytes(damage)
    assert "expected sha256" in store.verify(dataset.files[0])
    with pytest.warns(UserWarning, match="damaged"):
        store.obtain(dataset)
    assert gzip.decompress(path.read_bytes()) == TRAIN


def test_wrong_content_of_a_built_file_is_refused(server, store):  # noqa: F811
    dataset = tiny_imdb(server.serve("tiny.tar.gz", ARCHIVE), train=TRAIN + b"x")
    with pytest.raises(WrongHash, match=sha(TRAIN)):
        store.obtain(dataset)
    assert "imdb/imdb_train.csv.gz" not in files_in(store)


@pytest.mark.parametrize(
    "content", [ARCHIVE[: len(ARCHIVE) // 2], b"<html>sign in</html>"], ids=["cut", "page"]
)
def test_archive_without_pinned_bytes_is_checked_by_what_is_in_it(server, store, content):  # noqa: F811
    """GitHub's own archives: whatever comes is taken, and then must hold the right files."""
    dataset = tiny_imdb(server.serve("tiny.tar.gz", content, behave.ignores_range))
    *parts, whole = dataset.files
    dataset = replace(dataset, files=(*parts, replace(whole, bytes_may_change=True)))
    with pytest.raises(DataUnavailable, match=r"tiny.tar.gz"):
        store.obtain(dataset)
    assert files_in(store) == set()
    repacked = pack(REVIEWS)
    server.serve("tiny.tar.gz", repacked)
    assert sha(repacked) != whole.sha256
    assert gzip.decompress(store.obtain(dataset)["imdb/imdb_train.csv.gz"].read_bytes()) == TRAIN


def test_physionet_becomes_one_long_table(tmp_path):
    stays = {
        "set-a/20.txt": "Time,Parameter,Value\n00:00,RecordID,20\n00:07,HR,73\n47:37,NIMAP,92.33\n",
        "set-a/3.txt": "Time,Parameter,Value\n00:00,RecordID,3\n01:30,,5\n",
        "set-a/readme": "not a stay",
    }
    (tmp_path / "set-a.tar.gz").write_bytes(pack(stays))
    prepare.build_physionet(tmp_path / "set-a.tar.gz", tmp_path)
    assert gzip.decompress((tmp_path / "set-a.csv.gz").read_bytes()).decode() == (
        "RecordID,minute,parameter,value\n3,0,RecordID,3\n3,90,,5\n"
        "20,0,RecordID,20\n20,7,HR,73\n20,2857,NIMAP,92.33\n"
    )
    with pytest.raises(DataUnavailable, match="fingerprint"):
        prepare.build_physionet(tmp_path / "set-a.tar.gz", tmp_path, "0" * 64)


def test_recordings_are_repacked_alone_sorted_and_without_dates(tmp_path):
    release = {
        "fsdd-1.0/recordings/1_ann_0.wav": b"one",
        "fsdd-1.0/recordings/0_bob_10.wav": b"zero",
        "fsdd-1.0/acquire.py": b"print()",
        "fsdd-1.0/recordings/readme.wav": b"no",
    }
    (tmp_path / "release.tar.gz").write_bytes(pack(release))
    expected = prepare.fingerprint({"recordings/0_bob_10.wav": b"zero", "recordings/1_ann_0.wav": b"one"})
    prepare.build_spoken_digits(tmp_path / "release.tar.gz", tmp_path, expected)
    with tarfile.open(tmp_path / "recordings.tar.gz") as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == ["recordings/0_bob_10.wav", "recordings/1_ann_0.wav"]
        assert {m.mtime for m in members} == {0}
        assert [tar.extractfile(m).read() for m in members] == [b"zero", b"one"]


def test_offline_store_builds_from_an_archive_in_the_mirror_folder(tmp_path):
    (tmp_path / "mirror/imdb").mkdir(parents=True)
    (tmp_path / "mirror/imdb/tiny.tar.gz").write_bytes(ARCHIVE)
    offline = Store(tmp_path / "cache", str(tmp_path / "mirror"), offline=True, patience=QUICK)
    paths = offline.obtain(tiny_imdb("http://unused.invalid/tiny.tar.gz"))
    assert gzip.decompress(paths["imdb/imdb_test.csv.gz"].read_bytes()) == TEST
    assert (tmp_path / "mirror/imdb/tiny.tar.gz").exists()
