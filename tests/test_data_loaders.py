"""Every loader, on its generated stand-in always and on the real data where SEQCOURSE_MIRROR offers them.

Both run through the same assertions on structure; on real data the registry's counts are asserted too.
"""

from __future__ import annotations

import collections
import csv
import functools
import gzip
import hashlib
import io
import os
import re
import tarfile
import warnings
from pathlib import Path

import pytest
import torch

import seqcourse.data
from seqcourse.data import parallel, prepare, series, tagged, text
from seqcourse.data.fetch import Store, is_intact
from seqcourse.data.registry import dataset, datasets
from seqcourse.data.source import DataUnavailable, GeneratedDataWarning

LOADERS = {
    "load_tinyshakespeare": "tinyshakespeare",
    "load_shakespeare": "shakespeare_complete",
    "load_imdb": "imdb",
    "load_wikitext2": "wikitext2",
    "load_multi30k": "multi30k",
    "load_tatoeba": "tatoeba_eng_fra",
    "load_wnut17": "wnut17",
    "load_wikiann": "wikiann_en",
    "load_wikigold": "wikigold",
    "load_sp500": "sp500",
    "load_nab": "nab",
    "load_physionet2012": "physionet2012",
    "load_japanese_vowels": "uea_japanesevowels",
    "load_mnist_digits": "mnist",
    "load_moving_digits": "mnist",
    "load_spoken_digits": "fsdd",
    "load_scitldr": "scitldr",
    "load_sgd": "sgd",
}
KINDS = ["generated", "real"] if os.environ.get("SEQCOURSE_MIRROR") else ["generated"]


@pytest.fixture(scope="module", params=KINDS)
def load(request, tmp_path_factory):
    """Calls a loader once: `load("imdb")` is `load_imdb` on stand-ins or on real data."""
    cache = tmp_path_factory.mktemp("cache")
    generated = request.param == "generated"

    @functools.cache
    def call(name: str, *arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # asked for either way: nothing to warn of
            loader = getattr(seqcourse.data, f"load_{name}")
            return loader(*arguments, generated=generated, cache_dir=cache)

    call.real = not generated
    call.cache = cache
    yield call
    call.cache_clear()


def counts(path: str) -> dict:
    return dataset(path.split("/")[0]).file(path).counts


# --- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tinyshakespeare", "shakespeare"])
def test_shakespeare_is_split_nine_to_one(load, name):
    corpus = load(name)
    whole = len(corpus.train) + len(corpus.validation)
    assert len(corpus.train) / whole == pytest.approx(0.9, abs=0.01)
    assert "\r" not in corpus.train and "\ufeff" not in corpus.train
    assert corpus.train.count("\n") > 100


def test_tinyshakespeare_counts(load):
    corpus = load("tinyshakespeare")
    whole = corpus.train + corpus.validation
    speakers = re.findall(r"^[A-Z][\w ]+:$", whole, re.MULTILINE)
    assert len(set(speakers)) >= 5
    if load.real:
        expected = counts("tinyshakespeare/input.txt")
        assert (whole.count("\n"), len(whole), len(set(whole))) == tuple(expected.values())
        assert whole.startswith("First Citizen:\n")


def test_complete_works_are_split_and_stripped(load):
    corpus = load("shakespeare")
    assert len(corpus.plays) >= 2
    assert all(len(play) > 300 for play in corpus.plays.values())
    for rest in ("Gutenberg", "GUTENBERG", "COPYRIGHT", "      Contents\n"):
        assert rest not in corpus.train + corpus.validation
    if load.real:
        assert len(corpus.plays) == 44
        assert all(play.split("\n")[0].strip().rstrip(":") == title for title, play in corpus.plays.items())
        hamlet = corpus.plays["THE TRAGEDY OF HAMLET, PRINCE OF DENMARK"]
        assert "To be, or not to be" in hamlet and "Dost thou think Alexander" in hamlet
        assert sum("To be, or not to be, that is the question" in play for play in corpus.plays.values()) == 1
        assert "From fairest creatures" in corpus.plays["THE SONNETS"]
        assert corpus.plays["VENUS AND ADONIS"].rstrip().endswith("FINIS")
        assert "Means to immure herself and not be seen." in corpus.validation


def test_reviews_are_balanced_text_with_labels(load):
    reviews = load("imdb")
    for part in (reviews.train, reviews.test):
        labels = collections.Counter(label for _, label in part)
        assert set(labels) == {0, 1}
        assert labels[1] / len(part) == pytest.approx(0.5, abs=0.05)
        assert all(isinstance(review, str) and review.strip() for review, _ in part)
    if load.real:
        for part, name in ((reviews.train, "train"), (reviews.test, "test")):
            expected = counts(f"imdb/imdb_{name}.csv.gz")
            assert len(part) == expected["rows"]
            assert sum(label for _, label in part) == expected["pos"]
            assert not any("\n" in review for review, _ in part)
        assert len({review for review, _ in reviews.train + reviews.test}) == 49_582
        assert reviews.train[0][0].startswith("Story of a man who has unnatural feelings for a pig.")


def test_duplicates_across_the_splits_are_reported(load):
    reviews = load("imdb")
    shared = text.duplicates_across(reviews)
    test_texts = {review for review, _ in reviews.test}
    assert set(shared) == {review for review, _ in reviews.train if review in test_texts}
    if load.real:
        assert len(shared) == 123


def test_wikitext_counts(load):
    corpus = load("wikitext2")
    assert corpus.train and corpus.validation and corpus.test
    assert len(corpus.train) > max(len(corpus.validation), len(corpus.test))
    if load.real:
        words = set()
        for part, name in ((corpus.train, "train"), (corpus.validation, "valid"), (corpus.test, "test")):
            expected = counts(f"wikitext2/{name}.txt")
            assert part.count("\n") == expected["lines"]
            assert len(part.split()) + part.count("\n") == expected["tokens_with_eos"]
            words |= set(part.split())
        assert len(words) + 1 == 33_278
        assert "<unk>" in words


# --- parallel and tagged text ----------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("tatoeba",), ("multi30k",), ("multi30k", ("en", "fr"))], ids=str)
def test_parallel_text_is_pairs_in_three_splits(load, arguments):
    pairs = load(*arguments)
    for part in (pairs.train, pairs.validation, pairs.test):
        assert len(part) >= 10
        assert all(len(pair) == 2 and pair[0].strip() and pair[1].strip() for pair in part)
    assert len(pairs.train) > len(pairs.validation) + len(pairs.test)


def test_multi30k_counts_and_alignment(load):
    german, french = load("multi30k"), load("multi30k", ("fr", "en"))
    assert (german.languages, french.languages) == (("de", "en"), ("fr", "en"))
    if load.real:
        for part, name in (
            (german.train, "train"),
            (german.validation, "val"),
            (german.test, "test_2016_flickr"),
        ):
            assert len(part) == counts(f"multi30k/{name}.de.gz")["lines"]
            assert sum(len(source.split()) for source, _ in part) == counts(f"multi30k/{name}.de.gz")["words"]
            assert sum(len(target.split()) for _, target in part) == counts(f"multi30k/{name}.en.gz")["words"]
        assert [english for _, english in german.train] == [english for _, english in french.train]


@pytest.mark.parametrize("pair", [("de", "de"), ("de", "cs"), ("de",), "de"], ids=str)
def test_multi30k_refuses_other_pairs(pair):
    with pytest.raises(ValueError, match="language_pair"):
        seqcourse.data.load_multi30k(pair, generated=True)


def test_tatoeba_never_splits_the_translations_of_a_sentence(load):
    pairs = load("tatoeba")
    assert pairs.languages == ("en", "fr")
    train, validation, test = (
        {english for english, _ in part} for part in (pairs.train, pairs.validation, pairs.test)
    )
    assert not (train & validation or train & test or validation & test)
    if load.real:
        expected = counts("tatoeba_eng_fra/fra-eng.zip")
        assert len(pairs.train) + len(pairs.validation) + len(pairs.test) == expected["pairs"]
        assert len(train) + len(validation) + len(test) == 98_659
        assert len(pairs.test) / expected["pairs"] == pytest.approx(0.05, abs=0.005)
        assert ("Go.", "Va !") in pairs.train + pairs.validation + pairs.test


def test_split_of_is_pinned_and_of_the_stated_shares():
    shares = collections.Counter(parallel.split_of(f"sentence {i}") for i in range(20_000))
    assert shares["train"] / 20_000 == pytest.approx(0.90, abs=0.01)
    assert shares["validation"] / 20_000 == pytest.approx(0.05, abs=0.01)
    assert shares["test"] / 20_000 == pytest.approx(0.05, abs=0.01)
    first = int(hashlib.sha256(b"Go.").hexdigest()[:16], 16) / 2**64
    assert parallel.split_of("Go.") == ("train" if first < 0.9 else "validation" if first < 0.95 else "test")


TAGGED = {"wnut17": 6, "wikiann": 3, "wikigold": 4}


@pytest.mark.parametrize("name", TAGGED)
def test_tags_are_iob2(load, name):
    corpus = load(name)
    sentences = corpus.train + corpus.validation + corpus.test
    assert len(sentences) > 100
    for tokens, tags in sentences:
        assert len(tokens) == len(tags) > 0
        assert all(token.strip() == token != "" for token in tokens)
        for before, tag in zip(["O", *tags], tags, strict=False):
            assert re.fullmatch(r"O|[BI]-[A-Za-z-]+", tag)
            assert not tag.startswith("I-") or before in (f"B-{tag[2:]}", tag)
    assert corpus.tags[0] == "O"
    types = {tag[2:] for tag in corpus.tags[1:]}
    assert len(types) == (TAGGED[name] if load.real else 3)


TAGGED_FILES = {
    "wnut17": {
        "train": "wnut17/wnut17train.conll",
        "validation": "wnut17/emerging.dev.conll",
        "test": "wnut17/emerging.test.annotated",
    },
    "wikiann": {
        "train": "wikiann_en/train.conllu",
        "validation": "wikiann_en/val.conllu",
        "test": "wikiann_en/test.conllu",
    },
    "wikigold": {"test": "wikigold/wikigold.conll.txt"},
}


@pytest.mark.parametrize("name", TAGGED)
def test_entities_are_counted_as_published(load, name):
    corpus = load(name)
    for part, path in TAGGED_FILES[name].items():
        sentences = getattr(corpus, part)
        entities = collections.Counter(t[2:] for _, tags in sentences for t in tags if t.startswith("B-"))
        assert entities
        if load.real:
            expected = counts(path)
            assert len(sentences) == expected["sentences"]
            assert sum(len(tokens) for tokens, _ in sentences) == expected["tokens"]
            assert entities == expected["entities"]


@pytest.mark.parametrize(
    ("iob1", "iob2"),
    [
        ("I-PER I-PER O I-PER", "B-PER I-PER O B-PER"),
        ("I-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("O O", "O O"),
        ("B-ORG I-ORG", "B-ORG I-ORG"),
    ],
)
def test_iob1_becomes_iob2(iob1, iob2):
    assert tagged.to_iob2(iob1.split()) == iob2.split()


def test_lone_tabs_end_a_sentence_and_document_marks_are_left_out():
    lines = "a\tO\nb\tB-PER\n\t\nc\tO\n\n\n-DOCSTART-\tO\n\nd\tO"
    assert tagged.read_columns(lines, "\t") == [(["a", "b"], ["O", "B-PER"]), (["c"], ["O"]), (["d"], ["O"])]


# --- numbers in time -------------------------------------------------------------------------------


def test_prices_are_consistent(load):
    prices = load("sp500")
    days = len(prices.dates)
    for column in (prices.close, prices.high, prices.low, prices.volume):
        assert column.shape == (days,)
        assert column.dtype == torch.float64
        assert column.isfinite().all()
    assert prices.dates == sorted(set(prices.dates))
    assert (prices.low <= prices.close).all() and (prices.close <= prices.high).all()
    assert not hasattr(prices, "open")
    if load.real:
        expected = counts("sp500/sp500-2000.csv")
        assert (days, prices.dates[0], prices.dates[-1]) == (
            expected["rows"],
            expected["first"],
            expected["last"],
        )
        assert prices.close[0].item() == 1455.219971
        assert "opening price" in prices.source.note


def test_streams_have_labelled_windows(load):
    streams = load("nab")
    for stream in streams.series.values():
        assert stream.values.shape == (len(stream.timestamps),) == stream.anomalous.shape
        assert stream.values.isfinite().all()
        assert all(first <= last for first, last in stream.windows)
        assert stream.anomalous.any() == bool(stream.windows)
        assert not stream.anomalous.all()
    if load.real:
        expected = counts("nab/labels/combined_windows.json")
        assert len(streams.series) == expected["series"]
        assert sum(len(stream.windows) for stream in streams.series.values()) == expected["windows"]
        for name, stream in streams.series.items():
            of_file = counts(f"nab/data/{name}")
            assert (len(stream.timestamps), stream.timestamps[0], stream.timestamps[-1]) == tuple(
                of_file.values()
            )


def test_labels_with_microseconds_compare_with_stamps_without(tmp_path):
    rows = "".join(f"2014-04-01 00:0{minute}:00,{minute}.5\n" for minute in range(5))
    (tmp_path / "stream.csv").write_text(f"timestamp,value\n{rows}")
    window = ["2014-04-01 00:01:00.000000", "2014-04-01 00:03:00.000000"]
    stream = series._read_stream(tmp_path / "stream.csv", [window])
    assert stream.anomalous.tolist() == [False, True, True, True, False]
    assert stream.values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]


def test_windows_include_both_ends(load):
    for stream in load("nab").series.values():
        inside = {
            stamp for stamp, flag in zip(stream.timestamps, stream.anomalous.tolist(), strict=True) if flag
        }
        ends = {end for window in stream.windows for end in window}
        assert ends & set(stream.timestamps) <= inside


def test_patients_have_one_label_and_no_missing_code(load):
    patients = load("physionet2012")
    for part in (patients.train, patients.validation, patients.test):
        assert 0 < sum(stay.died for stay in part) < len(part) / 2
        for stay in part:
            assert stay.values.shape == (len(stay.minutes), len(patients.parameters))
            assert (stay.minutes.diff() > 0).all()
            assert stay.minutes[0] >= 0 and stay.minutes[-1] <= 48 * 60
            assert not (stay.values == -1).any()
        assert any(stay.values.isnan().any() for stay in part)
    assert len(set(patients.parameters)) == len(patients.parameters)
    ids = [stay.record_id for part in (patients.train, patients.validation, patients.test) for stay in part]
    assert len(set(ids)) == len(ids)


def test_patient_counts_and_first_stay(load):
    patients = load("physionet2012")
    if load.real:
        for part, name in ((patients.train, "a"), (patients.validation, "b"), (patients.test, "c")):
            assert len(part) == counts(f"physionet2012/set-{name}.csv.gz")["stays"]
            assert sum(stay.died for stay in part) == counts(f"physionet2012/Outcomes-{name}.txt")["deaths"]
        # 42 names in set a are these 41 and RecordID, which is no measurement.
        assert len(patients.parameters) == counts("physionet2012/set-a.csv.gz")["parameters"] - 1
        first = patients.train[0]
        column = patients.parameters.index
        assert (first.record_id, first.values[0, column("Age")].item()) == (132539, 54)
        assert first.values[0, column("Height")].isnan()
        assert first.values[1, column("NIMAP")].item() == pytest.approx(92.33)
    assert not {"SAPS-I", "SOFA", "Length_of_stay", "Survival", "RecordID"} & set(patients.parameters)


def test_vowels_are_series_of_varying_length(load):
    vowels = load("japanese_vowels")
    lengths = {len(series) for series, _ in vowels.train + vowels.test}
    assert min(lengths) >= 7 and max(lengths) <= 29 and len(lengths) > 5
    assert all(series.shape[1:] == (12,) and series.isfinite().all() for series, _ in vowels.train)
    assert {label for _, label in vowels.train} == set(range(len(vowels.classes))) == set(range(9))
    if load.real:
        for part, name in ((vowels.train, "TRAIN"), (vowels.test, "TEST")):
            expected = counts(f"uea_japanesevowels/JapaneseVowels_{name}.ts")
            assert len(part) == expected["cases"]
            sizes = [len(series) for series, _ in part]
            assert (min(sizes), max(sizes)) == (expected["min_len"], expected["max_len"])
            tally = collections.Counter(str(label + 1) for _, label in part)
            assert tally == expected["classes"]
        assert vowels.train[0][0][:2, 0].tolist() == pytest.approx([1.860936, 1.891651])


# --- images and sound ------------------------------------------------------------------------------


def test_digits_are_images_with_labels(load):
    digits = load("mnist_digits")
    assert digits.images.shape == (len(digits.labels), 28, 28)
    assert (digits.images.dtype, digits.labels.dtype) == (torch.uint8, torch.int64)
    assert set(digits.labels.tolist()) == set(range(10))
    assert digits.images[:, 0, :].float().mean() < 5 < 40 < digits.images[:, 8:20, 8:20].float().mean()
    if load.real:
        assert [*digits.images.shape] == counts("mnist/t10k-images-idx3-ubyte.gz")["dims"]
        assert digits.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_digits_move_the_same_way_from_the_same_seed(load):
    films = load("moving_digits", 5, 6, 24, 3)
    again = load("moving_digits", 5, 6, 24, 4)
    assert films.frames.shape == (5, 6, 1, 24, 24)
    assert films.frames.dtype == torch.float32
    assert films.frames.min() >= 0 and 0.5 < films.frames.max() <= 1
    assert not torch.equal(films.frames, again.frames)
    fresh = seqcourse.data.load_moving_digits(5, 6, 24, 3, generated=not load.real, cache_dir=load.cache)
    assert torch.equal(films.frames, fresh.frames)
    assert (films.frames[:, 1:] != films.frames[:, :-1]).flatten(1).any(1).all()


def test_moving_digits_refuse_a_frame_that_is_too_small():
    with pytest.raises(ValueError, match="at least 12"):
        seqcourse.data.load_moving_digits(size=8, generated=True)


def test_spoken_digits_are_waveforms(load):
    digits = load("spoken_digits")
    for part in (digits.train, digits.test):
        assert {digit for _, digit in part} == set(range(10))
        assert all(sound.dim() == 1 and sound.dtype == torch.float32 for sound, _ in part)
        assert all(0 < sound.abs().max() <= 1 for sound, _ in part)
    assert len(digits.train) > len(digits.test)
    assert digits.sample_rate == 8000
    if load.real:
        expected = next(file for file in dataset("fsdd").content).counts
        sounds = [sound for sound, _ in digits.train + digits.test]
        assert len(sounds) == expected["wavs"]
        assert sum(map(len, sounds)) / 8000 == pytest.approx(expected["seconds"], abs=0.1)
        assert len(digits.test) == 10 * 6 * 5


# --- documents -------------------------------------------------------------------------------------


def test_summaries_are_pairs_of_sentences(load):
    summaries = load("scitldr")
    for part, name in ((summaries.train, "train"), (summaries.validation, "dev"), (summaries.test, "test")):
        assert part
        for document, references in part:
            assert document and references
            assert all(isinstance(sentence, str) for sentence in document + references)
        if load.real:
            assert len(part) == counts(f"scitldr/{name}.jsonl")["rows"]


def test_dialogues_take_turns_and_keep_a_state(load):
    dialogues = load("sgd")
    for part in (dialogues.train, dialogues.validation, dialogues.test):
        assert part
        for dialogue in part:
            assert [turn.speaker for turn in dialogue.turns[:2]] == ["USER", "SYSTEM"]
            assert set(dialogue.services) <= set(dialogues.services)
            assert all(turn.utterance for turn in dialogue.turns)
            assert not any(turn.state for turn in dialogue.turns if turn.speaker == "SYSTEM")
            slots = {slot.split("/")[0] for turn in dialogue.turns for slot in turn.state}
            assert slots <= set(dialogue.services)
        assert any(turn.state for dialogue in part for turn in dialogue.turns)
    if load.real:
        shards = [file for file in dataset("sgd").files if "dialogues_" in file.path]
        every = dialogues.train + dialogues.validation + dialogues.test
        assert len(every) == sum(file.counts["dialogues"] for file in shards)
        assert sum(len(dialogue.turns) for dialogue in every) == sum(file.counts["turns"] for file in shards)
        first = dialogues.validation[0].turns[0]
        assert first.intents == ("ReserveRestaurant",)
        assert first.state["Restaurants_2/number_of_seats"] == ["2"]


# --- real or generated -----------------------------------------------------------------------------


def test_every_loader_is_listed_here():
    assert set(LOADERS) == {name for name in seqcourse.data.__all__ if name.startswith("load_")}
    assert set(LOADERS.values()) == set(datasets())


@pytest.mark.parametrize("name", LOADERS)
def test_source_card_says_which(load, name):
    source = load(name.removeprefix("load_")).source
    assert source.generated != load.real
    assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
    assert source.headline.startswith("Real data" if load.real else "GENERATED stand-in")
    if load.real:
        assert (source.name, source.licence) == (LOADERS[name], dataset(LOADERS[name]).licence)
        assert source.citation


@pytest.mark.parametrize("name", LOADERS)
def test_without_data_a_stand_in_comes_with_a_warning(monkeypatch, tmp_path, name):
    monkeypatch.setenv("SEQCOURSE_OFFLINE", "1")
    monkeypatch.delenv("SEQCOURSE_MIRROR", raising=False)
    loader = getattr(seqcourse.data, name)
    with pytest.warns(GeneratedDataWarning, match=LOADERS[name]) as caught:
        data = loader(cache_dir=tmp_path)
    assert caught[0].filename == __file__  # it points at the caller
    assert str(tmp_path) not in str(caught[0].message)  # no path of this machine on a page
    assert data.source.generated
    assert f"In place of '{LOADERS[name]}'" in data.source.note
    with pytest.raises(DataUnavailable, match="What to do"):
        loader(generated=False, cache_dir=tmp_path)


def test_generated_must_be_none_true_or_false(tmp_path):
    with pytest.raises(TypeError, match="'no'"):
        seqcourse.data.load_sp500(generated="no", cache_dir=tmp_path)


def _public_archive(path: Path, members: dict[str, bytes]) -> None:
    """Pack reviews as the publisher does, in an order that is not the prepared one."""
    with tarfile.open(path, "w:gz", compresslevel=0) as tar:
        for name in sorted(members, key=lambda name: hashlib.md5(name.encode()).digest()):
            member = tarfile.TarInfo(f"aclImdb/{name}")
            member.size = len(members[name])
            tar.addfile(member, io.BytesIO(members[name]))


def _members(load) -> dict[str, bytes]:
    """The archive's files, had back from the rows of the prepared form, or made of generated reviews."""
    if not load.real:
        parts = {"train": load("imdb").train, "test": load("imdb").test}
        return {
            f"{split}/{('neg', 'pos')[label]}/{i}_{1 + 9 * label}.txt": review.encode()
            for split, part in parts.items()
            for i, (review, label) in enumerate(part)
        }
    paths = Store.from_environment(load.cache).obtain(dataset("imdb"))
    members = {}
    for split in ("train", "test"):
        table = gzip.decompress(paths[f"imdb/imdb_{split}.csv.gz"].read_bytes()).decode()
        for label, stars, number, review in list(csv.reader(io.StringIO(table, newline="")))[1:]:
            members[f"{split}/{label}/{number}_{stars}.txt"] = review.encode()
    return members


def test_imdb_is_built_from_the_public_layout(load, tmp_path):
    """Unpacked, packed as the publisher does and built again, the reviews are what they were."""
    members, reviews = _members(load), load("imdb")
    expected = prepare.fingerprint(members)
    if load.real:
        assert expected == dataset("imdb").file("imdb/aclImdb_v1.tar.gz").content_fingerprint
    _public_archive(tmp_path / "public.tar.gz", members)
    prepare.build_imdb(tmp_path / "public.tar.gz", tmp_path, expected)
    for split, part in (("train", reviews.train), ("test", reviews.test)):
        built = tmp_path / f"imdb_{split}.csv.gz"
        assert text._read_reviews(built) == sorted(part, key=lambda row: row[1])  # stable: numbers in order
        if load.real:
            assert is_intact(built, dataset("imdb").file(f"imdb/imdb_{split}.csv.gz"))
