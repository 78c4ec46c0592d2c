"""What the loaders return: one small frozen dataclass per kind of data, each with its `source`.

Real loaders and generators return the same types, so that a chapter runs unchanged on either.
Letters: T time steps, D features, F measured parameters, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from seqcourse.data.source import Source

Sentence = tuple[list[str], list[str]]


@dataclass(frozen=True)
class TextCorpus:
    """Running text for a language model. `plays` (title -> text) is filled where the corpus has works."""

    train: str
    validation: str
    source: Source
    test: str = ""
    plays: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reviews:
    """Reviews as pairs (text, label), label 1 for positive and 0 for negative."""

    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    source: Source


@dataclass(frozen=True)
class PriceSeries:
    """Daily prices, oldest first. There is no opening price: the source's is unreliable before 2014.

    Shapes:
        close, high, low, volume: (T,), float64
    """

    dates: list[str]
    close: torch.Tensor
    high: torch.Tensor
    low: torch.Tensor
    volume: torch.Tensor
    source: Source


@dataclass(frozen=True)
class ParallelText:
    """Sentence pairs (source sentence, target sentence) in `languages` = (source, target)."""

    train: list[tuple[str, str]]
    validation: list[tuple[str, str]]
    test: list[tuple[str, str]]
    source: Source
    languages: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class TaggedText:
    """Sentences as pairs (tokens, tags) of equal length; tags are IOB2 (`B-PER I-PER O`)."""

    train: list[Sentence]
    validation: list[Sentence]
    test: list[Sentence]
    source: Source

    @cached_property
    def tags(self) -> list[str]:
        """Every tag that occurs, `O` first, then alphabetically."""
        sentences = self.train + self.validation + self.test
        seen = {tag for _, tags in sentences for tag in tags}
        return ["O", *sorted(seen - {"O"})]


@dataclass(frozen=True)
class DigitImages:
    """Images of single digits.

    Shapes:
        images: (n, 28, 28), uint8, 0 background
        labels: (n,), int64
    """

    images: torch.Tensor
    labels: torch.Tensor
    source: Source


@dataclass(frozen=True)
class MovingFrames:
    """Short films of moving shapes, for next-frame prediction.

    Shapes:
        frames: (n, T, C, height, width), float32 in [0, 1]
    """

    frames: torch.Tensor
    source: Source


@dataclass(frozen=True)
class SpokenDigits:
    """Recordings as pairs (waveform, digit).

    Shapes:
        waveform: (T,), float32 in [-1, 1]
    """

    train: list[tuple[torch.Tensor, int]]
    test: list[tuple[torch.Tensor, int]]
    source: Source
    sample_rate: int = 8000


@dataclass(frozen=True)
class PatientStay:
    """One stay in intensive care: irregular measurements, NaN where a parameter was not measured.

    Shapes:
        minutes: (T,), float32, minutes since admission, increasing
        values: (T, F), float32
    """

    record_id: int
    minutes: torch.Tensor
    values: torch.Tensor
    died: int


@dataclass(frozen=True)
class Patients:
    """Stays in intensive care; the one label is death in hospital. `parameters` names the F columns."""

    train: list[PatientStay]
    validation: list[PatientStay]
    test: list[PatientStay]
    parameters: list[str]
    source: Source


@dataclass(frozen=True)
class Stream:
    """One measured stream and the windows (first, last timestamp) that are labelled anomalous.

    Shapes:
        values: (T,), float64
    """

    timestamps: list[str]
    values: torch.Tensor
    windows: list[tuple[str, str]]

    @property
    def anomalous(self) -> torch.Tensor:
        """(T,) bool, True inside a labelled window (ISO timestamps compare as text)."""
        inside = [any(first <= now <= last for first, last in self.windows) for now in self.timestamps]
        return torch.tensor(inside, dtype=torch.bool)


@dataclass(frozen=True)
class Streams:
    """Streams by name, such as `realKnownCause/nyc_taxi.csv`."""

    series: dict[str, Stream]
    source: Source


Summary = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Summaries:
    """Pairs (sentences of the document, one or more reference summaries)."""

    train: list[Summary]
    validation: list[Summary]
    test: list[Summary]
    source: Source


@dataclass(frozen=True)
class Turn:
    """One utterance. `state` maps "service/slot" to the values the user has asked for so far."""

    speaker: str
    utterance: str
    intents: tuple[str, ...] = ()
    state: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dialogue:
    """A task-oriented conversation between USER and SYSTEM."""

    dialogue_id: str
    services: tuple[str, ...]
    turns: list[Turn]


@dataclass(frozen=True)
class Dialogues:
    """Dialogues in the publisher's split. `services` names the services of the schema."""

    train: list[Dialogue]
    validation: list[Dialogue]
    test: list[Dialogue]
    services: list[str]
    source: Source


@dataclass(frozen=True)
class SeriesClassification:
    """Multivariate series of varying length as pairs (series, class index); `classes` names them.

    Shapes:
        series: (T, D), float32
    """

    train: list[tuple[torch.Tensor, int]]
    test: list[tuple[torch.Tensor, int]]
    classes: list[str]
    source: Source
