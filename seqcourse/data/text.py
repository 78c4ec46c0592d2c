"""Loaders for text: Shakespeare, film reviews, Wikipedia articles."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from seqcourse.data.loading import Files, read_text, real_or_generated
from seqcourse.data.source import Source
from seqcourse.data.types import Reviews, TextCorpus

# --- Shakespeare -----------------------------------------------------------------------------------


def load_tinyshakespeare(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> TextCorpus:
    """One megabyte of speeches from Shakespeare's plays; the last tenth is for validation.

    Source: Karpathy (2015), char-rnn.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import verse

    return real_or_generated(
        "tinyshakespeare", _read_tinyshakespeare, verse, generated=generated, cache_dir=cache_dir
    )


def _read_tinyshakespeare(files: Files, source: Source) -> TextCorpus:
    train, validation = _first_nine_tenths(read_text(files["input.txt"]))
    return TextCorpus(train, validation, source)


def _first_nine_tenths(text: str) -> tuple[str, str]:
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]


def load_shakespeare(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> TextCorpus:
    """Shakespeare's complete works, also one by one in `plays`; the last tenth is for validation.

    The Gutenberg header, footer and notes are removed, and so is the table of contents.

    Source: Project Gutenberg eBook 100, edition of June 2018.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import verse

    return real_or_generated(
        "shakespeare_complete", _read_shakespeare, verse, generated=generated, cache_dir=cache_dir
    )


def _read_shakespeare(files: Files, source: Source) -> TextCorpus:
    plays = split_into_works(strip_gutenberg(read_text(files["100-0.txt"])))
    train, validation = _first_nine_tenths("\n".join(plays.values()))
    return TextCorpus(train, validation, source, plays=plays)


def strip_gutenberg(text: str) -> str:
    """What stands between the start and end marks of a Project Gutenberg file, without its content note.

    Raises:
        ValueError: A mark is missing.
    """
    start = re.search(r"^\*\*\* START OF.*$", text, re.MULTILINE)
    end = re.search(r"^\*\*\* END OF", text, re.MULTILINE)
    if not (start and end):
        raise ValueError('expected a Project Gutenberg file with "*** START OF" and "*** END OF", found none')
    body = text[start.end() : end.start()]
    return re.split(r"^\* CONTENT NOTE", body, maxsplit=1, flags=re.MULTILINE)[0].strip("\n")


def split_into_works(body: str) -> dict[str, str]:
    """The works by title. The contents list the titles; each work begins with its own on a line alone.

    Raises:
        ValueError: A title of the contents does not occur in the text.
    """
    lines = body.split("\n")
    first = next(i for i, line in enumerate(lines) if line.strip() == "Contents") + 1
    titles: list[str] = []
    while lines[first].strip() not in titles:  # the first title comes again where the text begins
        titles += [lines[first].strip()] if lines[first].strip() else []
        first += 1
    starts = _title_lines(lines, titles, first)
    ends = [*starts[1:], len(lines)]
    return {
        title: "\n".join(lines[start:end]).strip("\n") + "\n"
        for title, start, end in zip(titles, starts, ends, strict=True)
    }


def _title_lines(lines: list[str], titles: list[str], at: int) -> list[int]:
    starts = []
    for title in titles:
        found = [i for i in range(at, len(lines)) if lines[i].strip().rstrip(":") == title][:1]
        if not found:
            raise ValueError(f"the contents name {title!r}, but no line of the text does")
        starts.append(found[0])
        at = found[0] + 1
    return starts


# --- film reviews ----------------------------------------------------------------------------------


def load_imdb(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> Reviews:
    """50,000 film reviews, 25,000 of them for testing, label 1 for positive and 0 for negative.

    Negative reviews come first, as in the archive: shuffle before training. `duplicates_across` finds the
    texts that stand in both splits.

    Source: Maas et al., Learning Word Vectors for Sentiment Analysis, ACL 2011.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import reviews

    return real_or_generated("imdb", _read_imdb, reviews, generated=generated, cache_dir=cache_dir)


def _read_imdb(files: Files, source: Source) -> Reviews:
    return Reviews(
        _read_reviews(files["imdb_train.csv.gz"]), _read_reviews(files["imdb_test.csv.gz"]), source
    )


def _read_reviews(path: Path) -> list[tuple[str, int]]:
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    next(rows)  # the header
    return [(text, int(label == "pos")) for label, _, _, text in rows]


def duplicates_across(reviews: Reviews) -> list[str]:
    """The distinct texts that occur both in the training and in the test set, sorted.

    A model may have learnt these by heart; leave them out of the test where that matters.
    """
    return sorted({text for text, _ in reviews.train} & {text for text, _ in reviews.test})


# --- Wikipedia articles ----------------------------------------------------------------------------


def load_wikitext2(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> TextCorpus:
    """Two million words of good Wikipedia articles, rare words replaced by `<unk>`, in the official split.

    Words are separated by spaces, and every line end counts as one word `<eos>`.

    Source: Merity et al., Pointer Sentinel Mixture Models, 2016.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import encyclopedia

    return real_or_generated(
        "wikitext2", _read_wikitext2, encyclopedia, generated=generated, cache_dir=cache_dir
    )


def _read_wikitext2(files: Files, source: Source) -> TextCorpus:
    train, validation, test = (read_text(files[f"{name}.txt"]) for name in ("train", "valid", "test"))
    return TextCorpus(train, validation, source, test=test)
