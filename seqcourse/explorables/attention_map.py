"""A trained translator in the reader's browser: choose a token and see where it looks."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Sequence
from typing import Any

import traitlets
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from seqcourse.attention import SinusoidalPositions
from seqcourse.data.tokenisation import SPECIALS, SubwordTokeniser
from seqcourse.explorables.base import FOLDER, Explorable
from seqcourse.models.translation import TransformerTranslator
from seqcourse.pretrained import Trained, rounded_tensor

LIMIT = 60  # tokens per sentence
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase + "!#$%&()*+-;<=>?@^_`{|}~"
BASE = len(DIGITS)  # 85, the digits of base64.b85encode

SENTENCES = (  # ours: everyday scenes as in the training data, but not taken from there
    "Ein Mann mit rotem Hut liest im Zug eine Zeitung.",
    "Zwei Kinder bauen am Strand eine Burg aus Sand.",
    "Die alte Frau füttert im Park viele Vögel.",
    "Ein Hund springt über einen Zaun, weil er den Ball sieht.",
    "Heute Abend spielt eine Band auf der kleinen Bühne Musik.",
    "Den Ball wirft das Mädchen, nicht der Junge.",
    "Drei Männer, die Helme tragen, reparieren ein Dach.",
    "Ein Junge schläft auf dem Sofa neben seiner Katze.",
)


class AttentionMap(Explorable):
    """A Transformer that translates as it is read, and shows for each token where each of its heads looks.

    The arithmetic is that of :class:`seqcourse.models.translation.TransformerTranslator`, with the weights as
    checkpoints store them (:func:`seqcourse.pretrained.rounded_tensor`), decoding greedily; a test compares
    the two. Make one with :meth:`of`.

    Args:
        translator: what :func:`pack` makes of a model and its tokenisers.
        sentences: the reader's choice.
        sentence: the one to begin with.
        layer: which layer's attention is shown, counted from 0.
        head: which head's, counted from 0; -1 for the mean of all.
    """

    _esm = FOLDER / "attention_map.mjs"
    label = "Attention map of a translator"
    alternative = (
        "A small trained Transformer translates a German sentence into English. For each token, bars show "
        "how it weighs the tokens it looks at: in the source by cross-attention, and in its own sentence by "
        "self-attention, for one layer and one head or the mean of all heads."
    )

    translator = traitlets.Dict().tag(sync=True)
    sentences = traitlets.List(traitlets.Unicode(), list(SENTENCES)).tag(sync=True)
    sentence = traitlets.Unicode(SENTENCES[0]).tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(-1).tag(sync=True)

    @classmethod
    def of(cls, trained: Trained, sentences: Sequence[str] = SENTENCES, **options: Any) -> AttentionMap:
        """Show a trained translator; the last layer first, unless ``options`` say otherwise.

        Args:
            trained: a Transformer, pre-norm, with sinusoidal positions, and its tokenisers.
            sentences: the reader's choice; the reader may also type.
            options: further arguments of the class.

        Raises:
            ValueError: if the browser's arithmetic does not cover the model or a tokeniser.
        """
        packed = pack(trained)
        options = {"sentence": sentences[0], "layer": packed["decoder_layers"] - 1} | options
        return cls(translator=packed, sentences=list(sentences), **options)


def pack(trained: Trained) -> dict[str, Any]:
    """Everything the browser needs, fit for JSON: weights of one byte each, sizes, and the tokenisers' merges.

    Raises:
        ValueError: if the browser's arithmetic does not cover the model or a tokeniser.
    """
    model = trained.model
    _check(model)
    parameters = dict(model.named_parameters())  # tied weights come once
    weights = b"".join(map(_as_bytes, parameters.values()))
    return {
        "weights": base64.b85encode(weights + bytes(-len(weights) % 4)).decode(),
        "layout": [[name, len(p), p.shape[1] if p.dim() > 1 else 0] for name, p in parameters.items()],
        "source_table": _name_of(model.source_embedding.embedding.weight, parameters),
        "target_table": _name_of(model.target_embedding.embedding.weight, parameters),
        "output_table": _name_of(model.head.weight, parameters),
        "size": model.head.in_features,
        "heads": model.decoder.blocks[0].self_attention.heads,
        "encoder_layers": len(model.encoder.blocks),
        "decoder_layers": len(model.decoder.blocks),
        "pad_id": model.pad_id,
        "begin_id": model.begin_id,
        "end_id": model.end_id,
        "limit": LIMIT,
        "source": _merges(trained.source_tokeniser),
        "target": _merges(trained.target_tokeniser),
    }


def _name_of(parameter: Tensor, parameters: dict[str, Tensor]) -> str:
    return next(name for name, candidate in parameters.items() if candidate is parameter)


def _as_bytes(parameter: Tensor) -> bytes:
    """A vector in half precision; a matrix as its rows' scales and then its levels. Little-endian."""
    saved = rounded_tensor(parameter)
    parts = [saved["scale"].flatten(), saved["values"]] if "scale" in saved else [saved["values"]]
    return b"".join(part.numpy().astype(part.numpy().dtype.newbyteorder("<")).tobytes() for part in parts)


def _merges(tokeniser: SubwordTokeniser) -> dict[str, Any]:
    """The merges in the order of training, as two ids of two digits each; all other ids follow from them."""
    saved = json.loads(tokeniser.tokenizer.to_str())["model"]
    ids, merges = saved["vocab"], saved["merges"]
    tokens = [*SPECIALS, *sorted(ByteLevel.alphabet()), *map("".join, merges)]
    if ids != {token: id_ for id_, token in enumerate(tokens)} or len(ids) > BASE**2:
        raise ValueError(
            f"expected a byte-level vocabulary (special tokens, bytes, merges) of at most {BASE**2} tokens, "
            f"got {len(ids)} tokens"
        )
    parts = [ids[part] for pair in merges for part in pair]
    return {"merges": "".join(DIGITS[k // BASE] + DIGITS[k % BASE] for k in parts), "specials": len(SPECIALS)}


def _check(model: TransformerTranslator) -> None:
    positions = model.source_embedding.positions
    norm_first = model.decoder.blocks[0].attention_residual.norm_first
    if not isinstance(positions, SinusoidalPositions) or not norm_first:
        raise ValueError(
            "expected a pre-norm Transformer with sinusoidal positions, as the browser computes it; "
            f"got {type(positions).__name__} and {norm_first=}"
        )
