"""Loaders for named entities: social media, Wikipedia with silver and with gold labels."""

from __future__ import annotations

from pathlib import Path

from seqcourse.data.loading import Files, read_text, real_or_generated
from seqcourse.data.source import Source
from seqcourse.data.types import Sentence, TaggedText


def load_wnut17(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> TaggedText:
    """Rare and emerging entities of six types in social media. Hard: published F1 is about 40 to 60.

    Source: Derczynski et al., WNUT 2017 Shared Task on Novel and Emerging Entity Recognition.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import tagged_sentences

    return real_or_generated(
        "wnut17", _read_wnut17, tagged_sentences, generated=generated, cache_dir=cache_dir
    )


def load_wikiann(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> TaggedText:
    """People, organisations and places in Wikipedia, labelled automatically, 20,000 / 10,000 / 10,000.

    Source: Pan et al., ACL 2017; split of Rahimi et al., ACL 2019.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import tagged_sentences

    return real_or_generated(
        "wikiann_en", _read_wikiann, tagged_sentences, generated=generated, cache_dir=cache_dir
    )


def load_wikigold(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> TaggedText:
    """1,696 sentences of Wikipedia labelled by hand: a test set from another domain, without training data.

    Source: Balasuriya et al., Named Entity Recognition in Wikipedia, 2009.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import tagged_sentences

    return real_or_generated(
        "wikigold", _read_wikigold, tagged_sentences, generated=generated, cache_dir=cache_dir
    )


def _read_wnut17(files: Files, source: Source) -> TaggedText:
    names = ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")
    return TaggedText(*(read_columns(read_text(files[name]), "\t") for name in names), source=source)


def _read_wikiann(files: Files, source: Source) -> TaggedText:
    texts = (read_text(files[f"{name}.conllu"]) for name in ("train", "val", "test"))
    return TaggedText(*(read_columns(text, "\t") for text in texts), source=source)


def _read_wikigold(files: Files, source: Source) -> TaggedText:
    sentences = read_columns(read_text(files["wikigold.conll.txt"]), " ")
    return TaggedText([], [], [(tokens, to_iob2(tags)) for tokens, tags in sentences], source)


def read_columns(text: str, separator: str) -> list[Sentence]:
    """Sentences from lines "... token tag", where a blank line (even a lone tab) ends a sentence.

    Lines that begin with -DOCSTART- separate documents and are left out.
    """
    sentences: list[Sentence] = [([], [])]
    for line in text.split("\n"):
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append(([], []))
            continue
        *_, token, tag = line.split(separator)
        sentences[-1][0].append(token)
        sentences[-1][1].append(tag.strip())
    return [sentence for sentence in sentences if sentence[0]]


def to_iob2(tags: list[str]) -> list[str]:
    """IOB1 to IOB2: every entity begins with B-, not only one that follows another of its type."""
    converted = []
    before = "O"
    for tag in tags:
        continues = before[2:] == tag[2:]  # the same type; "O" has none
        converted.append(f"B-{tag[2:]}" if tag.startswith("I-") and not continues else tag)
        before = tag
    return converted
