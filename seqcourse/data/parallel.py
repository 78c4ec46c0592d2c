"""Loaders for parallel text: image captions in three languages, short English-French sentences."""

from __future__ import annotations

import functools
import hashlib
import zipfile
from pathlib import Path

from seqcourse.data.loading import Files, read_text, real_or_generated
from seqcourse.data.registry import dataset
from seqcourse.data.source import Source
from seqcourse.data.types import ParallelText

_LANGUAGES = ("en", "de", "fr")
_SPLITS = ("train", "val", "test_2016_flickr")


def load_multi30k(
    language_pair: tuple[str, str] = ("de", "en"),
    *,
    generated: bool | None = None,
    cache_dir: str | Path | None = None,
) -> ParallelText:
    """Image captions with their translations, 29,000 / 1,014 / 1,000 pairs, untokenised.

    Source: Elliott et al., Multi30K: Multilingual English-German Image Descriptions, 2016.

    Args:
        language_pair: (source, target), two of "en", "de", "fr".
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        ValueError: The pair is not two different ones of the three languages.
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import toy_translation

    pair = tuple(language_pair)
    if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(_LANGUAGES):
        raise ValueError(f"language_pair must be two different ones of {_LANGUAGES}, got {language_pair!r}")
    names = {f"{split}.{language}.gz" for split in _SPLITS for language in pair}
    return real_or_generated(
        "multi30k",
        functools.partial(_read_multi30k, pair),
        functools.partial(toy_translation, languages=pair),
        generated=generated,
        cache_dir=cache_dir,
        files=tuple(file for file in dataset("multi30k").content if file.name in names),
    )


def _read_multi30k(pair: tuple[str, str], files: Files, source: Source) -> ParallelText:
    parts = [_aligned(*(files[f"{split}.{language}.gz"] for language in pair)) for split in _SPLITS]
    return ParallelText(*parts, source=source, languages=pair)


def _aligned(source: Path, target: Path) -> list[tuple[str, str]]:
    sides = [read_text(path).removesuffix("\n").split("\n") for path in (source, target)]
    return [(one.strip(), other.strip()) for one, other in zip(*sides, strict=True)]


def load_tatoeba(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> ParallelText:
    """142,787 short sentence pairs, English to French, ordered from short to long.

    The split (90 / 5 / 5 %) goes by a hash of the English sentence: it recurs with several translations, and
    a split by rows would put some of them into training and some into the test.

    Source: tatoeba.org through www.manythings.org/anki, 2017.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import toy_translation

    return real_or_generated(
        "tatoeba_eng_fra",
        _read_tatoeba,
        functools.partial(toy_translation, languages=("en", "fr")),
        generated=generated,
        cache_dir=cache_dir,
    )


def _read_tatoeba(files: Files, source: Source) -> ParallelText:
    with zipfile.ZipFile(files["fra-eng.zip"]) as archive:
        text = archive.read("fra.txt").decode("utf-8")
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for line in text.removesuffix("\n").split("\n"):
        english, french = line.split("\t")
        parts[split_of(english)].append((english, french))
    return ParallelText(**parts, source=source, languages=("en", "fr"))


def split_of(sentence: str) -> str:
    """The split of a sentence, the same on every machine and in every release of the data."""
    share = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8], "big") / 2**64
    if share < 0.9:
        return "train"
    return "validation" if share < 0.95 else "test"
