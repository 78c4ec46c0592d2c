"""Small trained translators that come with the package, and the way to train them again.

``seqcourse train NAME`` makes each of them anew. A checkpoint is three parts: the weights, rounded to save
room (matrices to 8 bits with a scale per row, all else to half precision), the two tokenisers, and records
that say what it was trained on, how, and what it reaches with these rounded weights.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqcourse.checkpoint import CheckpointCorrupt
from seqcourse.data.tokenisation import Tokeniser, load_tokeniser
from seqcourse.data.types import ParallelText
from seqcourse.models.decoding import greedy
from seqcourse.models.translation import Translator
from seqcourse.records import Record, read, write
from seqcourse.translating import (
    GRU,
    GRU_ATTENTION,
    TEXT,
    TRANSFORMER,
    Corpus,
    Recipe,
    bleu,
    make_corpus,
    make_translator,
    parameter_count,
    token_loss,
    train_translator,
    translate,
)

FORMAT = 1
FOLDER = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class Entry:
    """How a checkpoint is trained.

    Args:
        recipe: model and training.
        vocabulary_size: of each language.
        pairs: how many sentence pairs of Multi30k; None for all.
        longest: pairs with at most so many words on each side; None for all.
        seed: of weights, order and dropout.
    """

    recipe: Recipe
    vocabulary_size: int = 2000
    pairs: int | None = None
    longest: int | None = None
    seed: int = 0


_GRU_SIZES = {"size": 64, "embedding_size": 64, "epochs": 6, "learning_rate": 4e-3}
CATALOGUE: dict[str, Entry] = {
    "translator-gru": Entry(Recipe(GRU, **_GRU_SIZES)),
    "translator-gru-attention": Entry(Recipe(GRU_ATTENTION, **_GRU_SIZES)),
    "translator-transformer": Entry(
        Recipe(TRANSFORMER, size=64, layers=2, inner_size=128, epochs=8, learning_rate=4e-3)
    ),
    # Small enough that a test trains it from scratch and compares the loss.
    "translator-tiny": Entry(
        Recipe(TRANSFORMER, size=32, layers=1, inner_size=64, epochs=6, max_tokens=600, learning_rate=1e-2),
        vocabulary_size=500,
        pairs=2000,
        longest=10,
    ),
}


@dataclass(frozen=True)
class Trained:
    """A trained translator with its tokenisers, and the records of its training.

    ``record`` is the one of the validation loss; its protocol says how the model was trained.
    """

    model: Translator
    source_tokeniser: Tokeniser
    target_tokeniser: Tokeniser
    records: tuple[Record, ...]

    @property
    def record(self) -> Record:
        """The record of the validation loss."""
        return next(record for record in self.records if record.metric == "validation loss")

    @property
    def bleu(self) -> Record:
        """The record of BLEU on the test set."""
        return next(record for record in self.records if record.metric == "BLEU")

    def translate(self, *sentences: str, decode=greedy) -> list[str]:
        """Translate sentences, written as they are; the result is lower case."""
        return translate(self.model, sentences, self.source_tokeniser, self.target_tokeniser, decode)


def names() -> list[str]:
    """Checkpoints that can be loaded or trained."""
    return list(CATALOGUE)


def entry(name: str) -> Entry:
    """How a checkpoint is trained.

    Raises:
        ValueError: no checkpoint of that name.
    """
    if name not in CATALOGUE:
        raise ValueError(f"expected one of {', '.join(CATALOGUE)}, got {name!r}")
    return CATALOGUE[name]


# --- load -----------------------------------------------------------------------------------------


def load(name: str, folder: str | os.PathLike[str] | None = None) -> Trained:
    """Load a trained translator, ready for use (in evaluation mode, on the CPU).

    Args:
        name: see :func:`names`.
        folder: where it lies; by default the package's own.

    Raises:
        ValueError: no checkpoint of that name.
        FileNotFoundError: it is not in the folder.
        CheckpointCorrupt: a file is damaged, or does not belong to this checkpoint.
    """
    chosen, places = entry(name), _Places.of(name, folder)
    places.check_presence()
    records = tuple(read(places.records))
    content = _read_weights(places.weights, records[0].protocol.get("sha256"))
    tokenisers = [load_tokeniser(path) for path in places.tokenisers]
    model = make_translator(chosen.recipe, *map(len, tokenisers), chosen.seed)
    _put_weights(model, content, places.weights)
    return Trained(model.eval(), *tokenisers, records)


@dataclass(frozen=True)
class _Places:
    """The files of a checkpoint. Checkpoints with the same data and vocabulary share their tokenisers."""

    name: str
    weights: Path
    records: Path
    tokenisers: tuple[Path, Path]

    @classmethod
    def of(cls, name: str, folder: str | os.PathLike[str] | None) -> _Places:
        folder, chosen = Path(folder) if folder is not None else FOLDER, entry(name)
        kind = f"{chosen.vocabulary_size}" if chosen.pairs is None else name
        sides = tuple(folder / f"{kind}-{side}-tokens.json" for side in ("source", "target"))
        return cls(name, folder / f"{name}.pt", folder / f"{name}.json", sides)

    def check_presence(self) -> None:
        for path in (self.weights, self.records, *self.tokenisers):
            if not path.is_file():
                raise FileNotFoundError(
                    f"no {path.name} in {path.parent}: train it with 'seqcourse train {self.name}', and give "
                    "its folder to load()"
                )


def _read_weights(path: Path, sha256: str | None) -> dict[str, Any]:
    """Read tensors and plain values only, so no code in the file can run."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointCorrupt(f"{path} is damaged, or is not the file its record describes: sha256 differs")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointCorrupt(f"{path} is no checkpoint of seqcourse ({error})") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointCorrupt(f"{path} is a torch file, but no checkpoint of seqcourse.pretrained")
    return found["weights"]


def _put_weights(model: Translator, weights: dict[str, Any], path: Path) -> None:
    parameters = dict(model.named_parameters())
    restored = {name: restored_tensor(saved) for name, saved in weights.items()}
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in restored.items()}
    if differing := sorted(n for n in expected | found if expected.get(n) != found.get(n)):
        first = differing[0]
        raise CheckpointCorrupt(
            f"{path} does not fit this version's model: {first} should be {expected.get(first)}, "
            f"is {found.get(first)}; {len(differing)} parameters differ"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(restored[name])


def rounded_tensor(tensor: Tensor) -> dict[str, Tensor]:
    """A matrix as 8-bit numbers with one scale per row, anything else in half precision."""
    tensor = tensor.detach().cpu().float()
    if tensor.dim() < 2:
        return {"values": tensor.half()}
    scale = (tensor.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-7).half()
    return {"values": (tensor / scale.float()).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def restored_tensor(saved: dict[str, Tensor]) -> Tensor:
    """The float32 tensor that :func:`rounded_tensor` stands for."""
    values = saved["values"].float()
    return values * saved["scale"].float() if "scale" in saved else values


# --- train ----------------------------------------------------------------------------------------


def train(
    name: str,
    folder: str | os.PathLike[str],
    *,
    text: ParallelText | None = None,
    device: str = "cpu",
    resume: bool = True,
) -> Trained:
    """Train a checkpoint from scratch, write it to a folder, and load it from there.

    Interrupted, it goes on where it stopped: unfinished work is in ``folder/runs``.

    Args:
        name: see :func:`names`.
        folder: where to write.
        text: sentence pairs; by default Multi30k, German to English.
        device: where to train.
        resume: False starts anew.

    Raises:
        ValueError: no checkpoint of that name.
    """
    from seqcourse.data import load_multi30k

    chosen, places = entry(name), _Places.of(name, folder)
    text = text or load_multi30k(("de", "en"))
    corpus = make_corpus(text, chosen.vocabulary_size, chosen.pairs, chosen.longest)
    unfinished = Path(folder) / "runs" / f"{name}.pt"
    if not resume:
        unfinished.unlink(missing_ok=True)
    model, history = train_translator(chosen.recipe, corpus, chosen.seed, device, unfinished)
    _write(places, model.cpu(), corpus, history.seconds[-1])
    unfinished.unlink(missing_ok=True)
    return load(name, folder)


def _write(places: _Places, model: Translator, corpus: Corpus, seconds: float) -> None:
    places.weights.parent.mkdir(parents=True, exist_ok=True)
    rounded = {name: rounded_tensor(parameter) for name, parameter in model.named_parameters()}
    torch.save({"format": FORMAT, "weights": rounded}, places.weights)
    for path, tokeniser in zip(
        places.tokenisers, (corpus.source_tokeniser, corpus.target_tokeniser), strict=True
    ):
        tokeniser.save(path)
        path.write_text(_compact(path.read_text(encoding="utf-8")), encoding="utf-8")
    _put_weights(model, rounded, places.weights)  # what is measured is what will be loaded
    write(places.records, _records(places, model.eval(), corpus, seconds))


def _compact(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def _records(places: _Places, model: Translator, corpus: Corpus, seconds: float) -> list[Record]:
    chosen, name = entry(places.name), places.name
    test = corpus.text.test
    found = translate(model, [s for s, _ in test], corpus.source_tokeniser, corpus.target_tokeniser)
    score = bleu(found, [target for _, target in test])
    protocol = {
        **asdict(chosen),
        "languages": "-".join(corpus.text.languages),
        "text": TEXT,
        "training pairs": len(corpus.train),
        "parameters": parameter_count(model),
        "sha256": hashlib.sha256(places.weights.read_bytes()).hexdigest(),
    }
    measured = partial(Record.measured, source=corpus.text.source, duration_s=seconds)
    return [
        measured(
            f"{name}/validation loss",
            metric="validation loss",
            unit="nats per token",
            values=[token_loss(model, corpus.validation)],
            protocol=protocol,
        ),
        measured(
            f"{name}/BLEU",
            metric="BLEU",
            unit="BLEU",
            values=[score.score],
            protocol={**protocol, "decoding": "greedy", "signature": score.signature, "sentences": len(test)},
        ),
    ]
