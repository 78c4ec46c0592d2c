"""Text into integers and back: characters, words, and subwords (byte-level BPE).

The three tokenisers share one interface. The first four ids mean the same in each of them:
0 ``<pad>`` fills up short sequences, 1 ``<unk>`` stands for what the vocabulary lacks,
2 ``<bos>`` begins a sequence, 3 ``<eos>`` ends it.
"""

from __future__ import annotations

import json
import re
from abc import ABCMeta, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch

__all__ = [
    "BEGIN",
    "END",
    "PAD",
    "SPECIALS",
    "UNKNOWN",
    "CharTokeniser",
    "SubwordTokeniser",
    "TableTokeniser",
    "Tokeniser",
    "WordTokeniser",
    "load_tokeniser",
    "split_words",
]

PAD, UNKNOWN, BEGIN, END = "<pad>", "<unk>", "<bos>", "<eos>"
SPECIALS = (PAD, UNKNOWN, BEGIN, END)

# A word with inner apostrophes ("don't"), or one punctuation mark; <unk> as WikiText writes it.
_WORD = re.compile(r"<unk>|\w+(?:['’]\w+)*|[^\w\s]")
_SPACE_BEFORE_MARK = re.compile(r" (?=[.,;:!?])")


def split_words(text: str) -> list[str]:
    """Split a text into words and punctuation marks.

    Args:
        text: any text. White space separates and is dropped.

    Returns:
        The tokens in order, so ``"Don't go, Romeo!"`` gives ``["Don't", "go", ",", "Romeo", "!"]``.
    """
    return _WORD.findall(text)


class Tokeniser(metaclass=ABCMeta):
    """What every tokeniser can do: text into ids and back, and itself into a file and back.

    Build one with ``train``. ``len(tokeniser)`` is the vocabulary size V; ids are 0 .. V - 1.
    """

    kind: str
    pad_id, unknown_id, begin_id, end_id = range(4)

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Learn the vocabulary from the training texts (never from validation or test texts)."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def token_of(self, token_id: int) -> str:
        """Return the token behind one id, special tokens included."""

    @abstractmethod
    def id_of(self, token: str) -> int:
        """Return the id of one token, special tokens included; ``unknown_id`` if there is none."""

    @abstractmethod
    def _ids(self, text: str) -> list[int]: ...

    @abstractmethod
    def _text(self, ids: list[int]) -> str: ...

    @abstractmethod
    def _as_dict(self) -> dict[str, Any]: ...

    @classmethod
    @abstractmethod
    def _from_dict(cls, saved: dict[str, Any]) -> Self: ...

    def encode(self, text: str, *, begin: bool = False, end: bool = False) -> list[int]:
        """Turn a text into ids.

        Args:
            text: the text. Special tokens written out in it ("<pad>") are ordinary characters,
                so that no text can forge them; only ``<unk>`` keeps its meaning between words.
            begin: put ``begin_id`` before it.
            end: put ``end_id`` after it.

        Returns:
            A list of ids, each in 0 .. V - 1; empty for an empty text.

        Raises:
            TypeError: if ``text`` is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode expects one text (str), got {type(text).__name__}")
        return [self.begin_id] * begin + self._ids(text) + [self.end_id] * end

    def decode(self, ids: Sequence[int] | torch.Tensor) -> str:
        """Turn ids back into text; ``<pad>``, ``<bos>`` and ``<eos>`` leave no trace.

        Args:
            ids: a list of ids, or a tensor of shape (T,).

        Raises:
            TypeError: if ``ids`` is not a flat sequence of integers.
            ValueError: if an id lies outside the vocabulary.
        """
        silent = (self.pad_id, self.begin_id, self.end_id)
        return self._text([i for i in _checked_ids(ids, len(self)) if i not in silent])

    def out_of_vocabulary_rate(self, texts: Iterable[str]) -> float:
        """Return the share of tokens in ``texts`` that the vocabulary lacks, between 0 and 1.

        Raises:
            ValueError: if the texts hold no token at all.
        """
        counts = Counter(i == self.unknown_id for text in _texts(texts) for i in self.encode(text))
        if not counts:
            raise ValueError("out_of_vocabulary_rate expects texts with at least one token, got none")
        return counts[True] / counts.total()

    def save(self, path: str | Path) -> None:
        """Write the tokeniser to a JSON file, from which ``load`` makes the same one again."""
        saved = {"kind": self.kind, **self._as_dict()}
        Path(path).write_text(json.dumps(saved, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a tokeniser of this kind from a file that ``save`` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not one that ``save`` wrote, or holds another kind.
        """
        saved = _read(Path(path))
        if saved["kind"] != cls.kind:
            raise ValueError(
                f"{path} holds a {saved['kind']!r} tokeniser, not a {cls.kind!r} one; use load_tokeniser"
            )
        return _restore(cls, saved, path)


class TableTokeniser(Tokeniser):
    """A tokeniser that is a table: a list of tokens, whose position is the id.

    Args:
        tokens: the vocabulary, beginning with the four special tokens.

    Raises:
        ValueError: if the special tokens are not in front, or a token appears twice.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        if tuple(self.tokens[:4]) != SPECIALS:
            raise ValueError(f"the first four tokens must be {SPECIALS}, got {tuple(self.tokens[:4])}")
        self._id = {token: i for i, token in enumerate(self.tokens)}
        if len(self._id) != len(self.tokens):
            raise ValueError("each token must appear once in the vocabulary; some appear twice")

    def __len__(self) -> int:
        return len(self.tokens)

    def token_of(self, token_id: int) -> str:
        """Return the token behind one id, special tokens included."""
        return self.tokens[_checked_ids([token_id], len(self))[0]]

    def id_of(self, token: str) -> int:
        """Return the id of one token, special tokens included; ``unknown_id`` if there is none."""
        return self._id.get(token, self.unknown_id)

    def _as_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens}

    @classmethod
    def _from_dict(cls, saved: dict[str, Any]) -> Self:
        return cls(saved["tokens"])


class CharTokeniser(TableTokeniser):
    """One id per character: a tiny vocabulary, long sequences, nothing lost.

    Args:
        tokens: the vocabulary: the four special tokens, then characters. Use ``train`` to collect it.
    """

    kind = "characters"

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Collect every character of the training texts, in the order of their code points.

        Raises:
            ValueError: if the texts hold no character.
        """
        characters = set().union(*_texts(texts))
        if not characters:
            raise ValueError("CharTokeniser.train expects texts to learn from, got no character at all")
        return cls([*SPECIALS, *sorted(characters)])

    def _ids(self, text: str) -> list[int]:
        return [self._id.get(character, self.unknown_id) for character in text]

    def _text(self, ids: list[int]) -> str:
        return "".join(self.tokens[i] for i in ids)


class WordTokeniser(TableTokeniser):
    """One id per frequent word or punctuation mark; rare words become ``<unk>``.

    Args:
        tokens: the vocabulary: the four special tokens, then words. Use ``train`` to collect it.
        lowercase: whether texts are put into lower case first.
        specials: how many of the tokens after the first four are further special tokens.
    """

    kind = "words"

    def __init__(self, tokens: Sequence[str], *, lowercase: bool = True, specials: int = 0) -> None:
        super().__init__(tokens)
        self.lowercase = lowercase
        self.specials = self.tokens[: len(SPECIALS) + specials]
        # A word of the text that reads "<pad>" must not become padding.
        self._word_id = {word: i for word, i in self._id.items() if word not in self.specials}

    @classmethod
    def train(
        cls,
        texts: Iterable[str | Sequence[str]],
        max_vocabulary: int = 10_000,
        *,
        min_count: int = 1,
        lowercase: bool = True,
        specials: Sequence[str] = (),
    ) -> Self:
        """Count the words of the training texts and keep the most frequent ones.

        Args:
            texts: texts, or lists of words (for data that comes split, as tagged sentences do).
            max_vocabulary: the largest vocabulary size V, special tokens included.
            min_count: a word seen less often than this is left out.
            lowercase: count and encode in lower case.
            specials: further special tokens, such as ``"<mask>"``; they take the ids from 4 on.

        Raises:
            ValueError: if the texts hold no word, or ``max_vocabulary`` leaves no room for one.
        """
        reserved = [*SPECIALS, *specials]
        if max_vocabulary <= len(reserved):
            raise ValueError(
                f"max_vocabulary must exceed the {len(reserved)} special tokens, got {max_vocabulary}"
            )
        counts = Counter(word for text in _texts(texts) for word in _words(text, lowercase))
        if not counts:
            raise ValueError("WordTokeniser.train expects texts to learn from, got no word at all")
        # Ties are broken by the alphabet: the same texts in another order give the same ids.
        frequent = sorted(counts, key=lambda word: (-counts[word], word))
        words = [word for word in frequent if counts[word] >= min_count and word not in reserved]
        return cls((reserved + words)[:max_vocabulary], lowercase=lowercase, specials=len(specials))

    def encode_words(self, words: Sequence[str]) -> list[int]:
        """Turn a sentence that is already split into ids, one per word, so that tags stay aligned.

        Raises:
            TypeError: if ``words`` is one string instead of a list of words.
        """
        if isinstance(words, str):
            raise TypeError("encode_words expects a list of words, got one string; use encode for a text")
        return [self._word_id.get(word, self.unknown_id) for word in _words(words, self.lowercase)]

    def _ids(self, text: str) -> list[int]:
        return [self._word_id.get(word, self.unknown_id) for word in _words(text, self.lowercase)]

    def _text(self, ids: list[int]) -> str:
        return _SPACE_BEFORE_MARK.sub("", " ".join(self.tokens[i] for i in ids))

    def _as_dict(self) -> dict[str, Any]:
        further = len(self.specials) - len(SPECIALS)
        return {"tokens": self.tokens, "lowercase": self.lowercase, "specials": further}

    @classmethod
    def _from_dict(cls, saved: dict[str, Any]) -> Self:
        return cls(saved["tokens"], lowercase=saved["lowercase"], specials=saved["specials"])


class SubwordTokeniser(Tokeniser):
    """Byte-level byte-pair encoding: frequent words are one token, rare ones are spelt in pieces.

    It starts from the 256 bytes and merges the most frequent neighbouring pair again and again.
    Every text can be written in bytes, so nothing is ever out of vocabulary.

    Source: Sennrich, Haddow & Birch 2016 (BPE for words); Radford et al. 2019 (on bytes).

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` whose first four ids are the special tokens. Use ``train``.
    """

    kind = "subwords"

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # "<pad>" in a text is five characters, not padding
        first = tuple(tokenizer.id_to_token(i) for i in range(4))
        if first != SPECIALS:
            raise ValueError(f"the first four tokens must be {SPECIALS}, got {first}")

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int = 1_000) -> Self:
        """Learn merges from the training texts until the vocabulary is full or no pair repeats.

        Args:
            texts: training texts.
            vocabulary_size: the largest V: 4 special tokens, 256 bytes, the rest merges.

        Raises:
            ValueError: if the texts are empty, or ``vocabulary_size`` is below 260.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        if vocabulary_size < len(SPECIALS) + 256:
            raise ValueError(
                f"vocabulary_size must be at least 260 (4 special + 256 bytes), got {vocabulary_size}"
            )
        texts = [text for text in _texts(texts) if text]
        if not texts:
            raise ValueError("SubwordTokeniser.train expects texts to learn from, got no character at all")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def token_of(self, token_id: int) -> str:
        """Return the piece behind one id as readable text (a lone byte of a longer character shows as �)."""
        (token_id,) = _checked_ids([token_id], len(self))
        return SPECIALS[token_id] if token_id < len(SPECIALS) else self._text([token_id])

    def id_of(self, token: str) -> int:
        """Return the id of one piece or special token; ``unknown_id`` if it is not one piece."""
        if token in SPECIALS:
            return SPECIALS.index(token)
        ids = self._ids(token)
        return ids[0] if len(ids) == 1 else self.unknown_id

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def _as_dict(self) -> dict[str, Any]:
        return {"tokenizer": json.loads(self.tokenizer.to_str())}

    @classmethod
    def _from_dict(cls, saved: dict[str, Any]) -> Self:
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_str(json.dumps(saved["tokenizer"])))


_KINDS: dict[str, type[Tokeniser]] = {
    tokeniser.kind: tokeniser for tokeniser in (CharTokeniser, WordTokeniser, SubwordTokeniser)
}


def load_tokeniser(path: str | Path) -> Tokeniser:
    """Read a tokeniser of any kind from a file that ``save`` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not one that ``save`` wrote.
    """
    saved = _read(Path(path))
    return _restore(_KINDS[saved["kind"]], saved, path)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no tokeniser file at {path}; write one with tokeniser.save(path)")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON or bad UTF-8
        raise ValueError(f"{path} is not a tokeniser file: it is not valid JSON ({error})") from error
    if not isinstance(saved, dict) or saved.get("kind") not in _KINDS:
        raise ValueError(f"{path} is not a tokeniser file: 'kind' must be one of {sorted(_KINDS)}")
    return saved


def _restore(cls: type[Tokeniser], saved: dict[str, Any], path: str | Path) -> Any:
    try:
        return cls._from_dict(saved)
    except Exception as error:  # tokenizers raises bare Exception on a damaged file
        raise ValueError(f"{path} is a damaged {cls.kind!r} tokeniser file: {error!r}") from error


def _texts(texts: Iterable[Any]) -> Iterable[Any]:
    """Guard against the classic slip: one string where a list of texts belongs."""
    if isinstance(texts, str):
        raise TypeError("expected a list of texts, got one string; write [text]")
    return texts


def _words(text: str | Sequence[str], lowercase: bool) -> list[str]:
    if isinstance(text, str):
        return split_words(text.lower() if lowercase else text)
    return [word.lower() for word in text] if lowercase else list(text)


def _checked_ids(ids: Sequence[int] | torch.Tensor, vocabulary_size: int) -> list[int]:
    ids = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    if not all(isinstance(i, int) for i in ids):
        raise TypeError("expected a flat list of integer ids; decode the sequences of a batch one by one")
    outside = [i for i in ids if not 0 <= i < vocabulary_size]
    if outside:
        raise ValueError(f"ids must lie in 0 .. {vocabulary_size - 1} (the vocabulary), got {outside[0]}")
    return ids
