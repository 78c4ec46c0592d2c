"""From a sentence in one language to a sentence in another: encoder-decoders, recurrent and Transformer.

Letters: B batch, S source positions, T target positions, E embedding size, H hidden size, D model size,
V target vocabulary, L layers. A target stands between a begin and an end token; the decoder reads
``target[:, :-1]`` and is compared with ``target[:, 1:]``.

Every translator reads the source once (:meth:`Translator.encode`) and then writes the target, all positions
at once in training, a few at a time in :mod:`seqcourse.models.decoding`. Both are the same
:meth:`Translator.decode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.attention import (
    AdditiveScore,
    ConcatScore,
    DotScore,
    GeneralScore,
    Score,
    attention_weights,
    padding_mask,
)
from seqcourse.cells import State, as_tuple
from seqcourse.models.common import check_tokens, lengths_from_padding, make_recurrent
from seqcourse.models.embedding import TokenEmbedding, rotary
from seqcourse.padding import check_lengths
from seqcourse.transformer import Cache, Decoder, Encoder

ATTENTIONS = ("additive", "dot", "general", "concat")


class DecoderState(Protocol):
    """What a decoder remembers between two calls."""

    def select(self, rows: Tensor) -> Self:
        """Return the state of these rows of the batch, in this order."""


@dataclass(frozen=True)
class Memory:
    """What the encoder hands to the decoder; it does not change while the target is written.

    Shapes:
        output ``(B, S, D)``, one vector per source position, D = 2 H for a recurrent encoder; mask
        ``(B, 1, S)``, True at real positions; keys ``(B, S, A)``, the output as the attention's score wants
        it, or None; code ``(B, states, L, 2H)``, the encoder's last states, or None.
    """

    output: Tensor
    mask: Tensor
    keys: Tensor | None = None
    code: Tensor | None = None

    def select(self, rows: Tensor) -> Memory:
        """Return the memory of these rows of the batch, in this order."""
        return Memory(*(x if x is None else x.index_select(0, rows) for x in vars(self).values()))


@dataclass(frozen=True)
class RecurrentState:
    """The states of a recurrent decoder's layers: ``(L, B, H)``, for an LSTM a pair of them."""

    layers: State

    def select(self, rows: Tensor) -> RecurrentState:
        """Return the states of these rows of the batch, in this order."""
        return RecurrentState(_map(lambda part: part.index_select(1, rows), self.layers))


class Translator(nn.Module):
    """What all translators share: teacher forcing, the loss, and the contract that decoding needs.

    Sutskever, Vinyals & Le (2014), Sequence to Sequence Learning with Neural Networks; Cho et al. (2014),
    Learning Phrase Representations using RNN Encoder-Decoder. A subclass gives :meth:`encode`,
    :meth:`start`, :meth:`decode` and, if it has one, :meth:`alignment`.

    Args:
        source_vocabulary_size: of the language that is read.
        target_vocabulary_size: V, of the language that is written.
        pad_id: the id of padding, in both.
        begin_id: the id that begins a target.
        end_id: the id that ends a target.
        label_smoothing: share of the target's probability that training spreads over the vocabulary
            (Szegedy et al. 2016, section 7); evaluation never does.

    Raises:
        ValueError: if one of the three ids is missing in the target vocabulary, or two are the same.
    """

    def __init__(
        self,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        pad_id: int = 0,
        begin_id: int = 2,
        end_id: int = 3,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check_special_ids(target_vocabulary_size, pad_id=pad_id, begin_id=begin_id, end_id=end_id)
        self.source_vocabulary_size = source_vocabulary_size
        self.target_vocabulary_size = target_vocabulary_size
        self.pad_id, self.begin_id, self.end_id = pad_id, begin_id, end_id
        self.label_smoothing = label_smoothing

    @property
    def attends(self) -> bool:
        """Whether there is an :meth:`alignment`."""
        return True

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Memory:
        """Read the source.

        Shapes:
            source (B, S), padded at the end; source_lengths (B,).

        Args:
            source: ids.
            source_lengths: real tokens per sentence; by default all up to the last that is not ``pad_id``.

        Raises:
            TypeError: if source or lengths are not integer tensors.
            ValueError: if a shape, an id or a length does not fit.
        """
        raise NotImplementedError

    def start(self, memory: Memory) -> DecoderState:
        """Return the decoder's state before the first target token."""
        raise NotImplementedError

    def decode(self, target: Tensor, memory: Memory, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read further target tokens; return the logits of the token after each, and the state to go on from.

        ``state`` itself stays as it is, so one can go on from it in two ways.

        Shapes:
            target (B, T), the new positions only; logits (B, T, V).

        Raises:
            TypeError: if target is not an integer tensor.
            ValueError: if a shape or an id does not fit.
        """
        raise NotImplementedError

    def alignment(self, source: Tensor, target_in: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """Return how much each source position counted for the token after each token of ``target_in``.

        Shapes:
            source (B, S), target_in (B, T); returns (B, T, S), zero at padding, each row adds up to one.

        Raises:
            ValueError: if the model attends to nothing.
        """
        raise NotImplementedError

    def forward(self, source: Tensor, target_in: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """Return the logits of the token after each token of ``target_in``: teacher forcing.

        Shapes:
            source (B, S), target_in (B, T), source_lengths (B,); returns (B, T, V).

        Raises:
            TypeError: if tokens or lengths are not integer tensors.
            ValueError: if a shape, an id or a length does not fit.
        """
        memory = self.encode(source, source_lengths)
        return self.decode(target_in, memory, self.start(memory))[0]

    def loss(self, batch: Any) -> Tensor:
        """Return the mean cross-entropy in nats of the target tokens, padding left out.

        Args:
            batch: a ``PairBatch``, or a tuple (source, source_lengths, target), target (B, T + 1) from begin
                to end.

        Raises:
            ValueError: if a target does not begin with ``begin_id`` or has no ``end_id``.
        """
        parts = ("source", "source_lengths", "target")
        is_tuple = isinstance(batch, tuple) and not hasattr(batch, "source")
        source, lengths, target = batch if is_tuple else (getattr(batch, name) for name in parts)
        _check_target(target, self.begin_id, self.end_id)
        logits = self(source, target[:, :-1], lengths)  # (B, T, V)
        return F.cross_entropy(
            logits.flatten(0, 1),
            target[:, 1:].flatten(),
            ignore_index=self.pad_id,
            label_smoothing=self.label_smoothing if self.training else 0.0,
        )

    def _check_source(self, source: Tensor, lengths: Tensor | None) -> Tensor:
        """Check what the encoder is given; return the lengths."""
        check_tokens(source, self.source_vocabulary_size)
        if lengths is None:
            return lengths_from_padding(source, self.pad_id)
        check_lengths(lengths, *source.shape)
        return lengths.to(source.device)

    def _check_target_in(self, target: Tensor, memory: Memory) -> None:
        check_tokens(target, self.target_vocabulary_size)
        if len(target) != len(memory.output):
            raise ValueError(f"expected one target per source, got {len(target)} and {len(memory.output)}")


class RecurrentTranslator(Translator):
    """A bidirectional recurrent encoder and a recurrent decoder, without or with attention.

    Each step of the decoder reads the previous token and a context, a vector of 2 H features. Without
    attention the context is the encoder's last state, the same at every step: the source has to fit into it
    (Cho et al. 2014). With attention it is a weighted mean of the encoder's outputs, and the decoder's
    previous state decides about the weights (Bahdanau, Cho & Bengio 2015). The other scores are those of
    Luong, Pham & Manning (2015) in the same place; ``"dot"`` needs keys of the queries' size, so there both
    directions of the encoder are added up. With several layers the lowest one asks, as in Wu et al. (2016),
    Google's Neural Machine Translation System.

    Args:
        source_vocabulary_size: of the language that is read.
        target_vocabulary_size: V.
        embedding_size: E, features per token, in both languages.
        hidden_size: H, of the decoder, and of each direction of the encoder.
        recurrent: ``"gru"``, ``"lstm"`` or ``"rnn"``.
        attention: None, ``"additive"``, ``"dot"``, ``"general"`` or ``"concat"``.
        num_layers: L, in encoder and decoder.
        dropout: of embeddings, between layers, and before the output.
        pad_id: the id of padding, in both.
        begin_id: the id that begins a target.
        end_id: the id that ends a target.
        label_smoothing: as in :class:`Translator`.

    Raises:
        ValueError: if ``recurrent``, ``attention`` or an id is unknown.
    """

    def __init__(
        self,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        recurrent: str = "gru",
        attention: str | None = None,
        num_layers: int = 1,
        dropout: float = 0.0,
        pad_id: int = 0,
        begin_id: int = 2,
        end_id: int = 3,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            source_vocabulary_size, target_vocabulary_size, pad_id, begin_id, end_id, label_smoothing
        )
        E, H = embedding_size, hidden_size
        self.source_embedding = nn.Embedding(source_vocabulary_size, E, padding_idx=pad_id)
        self.target_embedding = nn.Embedding(target_vocabulary_size, E, padding_idx=pad_id)
        self.encoder = make_recurrent(recurrent, E, H, num_layers, dropout, bidirectional=True)
        states = self.encoder.cells[0].state_names
        self.bridges = nn.ModuleList(nn.Linear(2 * H, H) for _ in states)
        self.attention, self.score = attention, make_score(attention, H)
        self.decoder = make_recurrent(recurrent, E + 2 * H, H)  # the layer that reads token and context
        self.upper = make_recurrent(recurrent, H, H, num_layers - 1, dropout) if num_layers > 1 else None
        self.readout = nn.Linear(H + 2 * H + E, H)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(H, target_vocabulary_size)

    @property
    def attends(self) -> bool:
        """Whether the decoder looks back at the source."""
        return self.score is not None

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Memory:
        """Read the source in both directions."""
        lengths = self._check_source(source, source_lengths)
        embedded = self.dropout(self.source_embedding(source))  # (B, S) -> (B, S, E)
        output, state = self.encoder(embedded, lengths=lengths)  # (B, S, 2H)
        code = torch.stack([_side_by_side(part) for part in as_tuple(state)], dim=1)  # (B, states, L, 2H)
        keys = None if self.score is None else self.score.project_keys(self._keys(output))
        return Memory(output, padding_mask(lengths, source.shape[1]), keys, code)

    def start(self, memory: Memory) -> RecurrentState:
        """Make the decoder's first state from the encoder's last ones, layer by layer."""
        codes = memory.code.unbind(1)  # hidden state, and cell state of an LSTM: (B, L, 2H) each
        states = [bridge(code).tanh() for bridge, code in zip(self.bridges, codes, strict=True)]
        parts = tuple(state.transpose(0, 1).contiguous() for state in states)  # (L, B, H)
        return RecurrentState(parts[0] if len(parts) == 1 else parts)

    def decode(self, target: Tensor, memory: Memory, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Read further target tokens, one step each; project to the vocabulary once for all steps."""
        features, _, state = self._run(target, memory, state)
        return self.head(features), state  # (B, T, V)

    def alignment(self, source: Tensor, target_in: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """Return the weights of the attention at each step, (B, T, S)."""
        if self.score is None:
            raise ValueError("expected a translator with attention, this one has attention=None")
        memory = self.encode(source, source_lengths)
        return self._run(target_in, memory, self.start(memory))[1]

    def _run(
        self, target: Tensor, memory: Memory, state: RecurrentState
    ) -> tuple[Tensor, Tensor | None, RecurrentState]:
        """Return features (B, T, H), attention weights (B, T, S), and the state after the last step."""
        self._check_target_in(target, memory)
        embedded = self.dropout(self.target_embedding(target))  # (B, T) -> (B, T, E)
        lowest, others = _map(lambda x: x[:1], state.layers), _map(lambda x: x[1:], state.layers)
        read = self._follow_code if self.score is None else self._attend
        output, context, weights, lowest = read(embedded, memory, lowest)
        layers = lowest
        if self.upper is not None:
            output, others = self.upper(self.dropout(output), others)
            layers = _map2(lambda x, y: torch.cat([x, y]), lowest, others)
        features = self.readout(torch.cat([output, context, embedded], dim=2)).tanh()  # (B, T, H)
        return self.dropout(features), weights, RecurrentState(layers)

    def _follow_code(
        self, embedded: Tensor, memory: Memory, state: State
    ) -> tuple[Tensor, Tensor, None, State]:
        """Give every step the same context, the last hidden state of the top layer; no step has to wait."""
        context = memory.code[:, 0, -1:].expand(-1, embedded.shape[1], -1)  # (B, T, 2H)
        output, state = self.decoder(torch.cat([embedded, context], dim=2), state)
        return output, context, None, state

    def _attend(self, embedded: Tensor, memory: Memory, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Before each step, let the state look for what in the source matters now."""
        cell, state, steps = self.decoder.cells[0], _map(lambda x: x[0], state), []
        for embedded_t in embedded.unbind(1):
            query = as_tuple(state)[0][:, None]  # (B, 1, H)
            weights_t = attention_weights(self.score.compare(query, memory.keys), memory.mask)  # (B, 1, S)
            context_t = (weights_t @ memory.output)[:, 0]  # (B, 2H)
            output_t, state = cell.step(cell.project(torch.cat([embedded_t, context_t], dim=1)), state)
            steps.append((output_t, context_t, weights_t[:, 0]))
        output, context, weights = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        return output, context, weights, _map(lambda x: x[None], state)

    def _keys(self, output: Tensor) -> Tensor:
        return output.unflatten(2, (2, -1)).sum(2) if self.attention == "dot" else output


class TransformerTranslator(Translator):
    """A Transformer that reads the source and writes the target. Vaswani et al. (2017).

    Args:
        source_vocabulary_size: of the language that is read.
        target_vocabulary_size: V.
        size: D.
        heads: N.
        layers: of the encoder, and of the decoder.
        inner_size: features between the two layers of a feed-forward network; 4 D if left out.
        dropout: of embeddings, attention weights, feed-forward layers, and what each layer adds.
        positions: ``"sinusoidal"``, ``"learned"``, ``"rotary"`` (in self-attention) or ``"none"``.
        norm_first: pre-norm instead of post-norm.
        tie_weights: the target's embedding is the output projection too (Press & Wolf 2017, Using the Output
            Embedding; section 3.4 of the paper).
        pad_id: the id of padding, in both.
        begin_id: the id that begins a target.
        end_id: the id that ends a target.
        label_smoothing: as in :class:`Translator`; the paper uses 0.1.
        max_length: how many positions can be learned.

    Raises:
        ValueError: if ``positions`` or an id is unknown, or sizes do not fit each other.
    """

    def __init__(
        self,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        size: int,
        heads: int,
        layers: int,
        inner_size: int | None = None,
        dropout: float = 0.1,
        positions: str = "sinusoidal",
        norm_first: bool = True,
        tie_weights: bool = True,
        pad_id: int = 0,
        begin_id: int = 2,
        end_id: int = 3,
        label_smoothing: float = 0.0,
        max_length: int = 512,
    ) -> None:
        super().__init__(
            source_vocabulary_size, target_vocabulary_size, pad_id, begin_id, end_id, label_smoothing
        )
        embed = {"positions": positions, "dropout": dropout, "max_length": max_length}
        self.source_embedding = TokenEmbedding(source_vocabulary_size, size, **embed)
        self.target_embedding = TokenEmbedding(target_vocabulary_size, size, **embed)
        options = {"dropout": dropout, "norm_first": norm_first, "rotary": rotary(positions, size, heads)}
        self.encoder = Encoder(size, heads, layers, inner_size, **options)
        self.decoder = Decoder(size, heads, layers, inner_size, **options)
        self.head = nn.Linear(size, target_vocabulary_size)
        if tie_weights:
            self.head.weight = self.target_embedding.embedding.weight

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Memory:
        """Read the source, all positions at once."""
        lengths = self._check_source(source, source_lengths)
        mask = padding_mask(lengths, source.shape[1])  # (B, 1, S)
        return Memory(self.encoder(self.source_embedding(source), mask), mask)

    def start(self, memory: Memory) -> Cache:
        """Return an empty cache."""
        return Cache()

    def decode(self, target: Tensor, memory: Memory, state: Cache) -> tuple[Tensor, Cache]:
        """Read further target tokens, all at once; the cache holds what was computed for the ones before."""
        self._check_target_in(target, memory)
        cache = state.copy()
        x = self.target_embedding(target, start=cache.length)  # (B, T, D)
        return self.head(self.decoder(x, memory.output, memory.mask, cache)), cache

    def alignment(self, source: Tensor, target_in: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """Return the cross-attention of the last layer, its heads averaged, (B, T, S)."""
        return self.attention_maps(source, target_in, source_lengths)[:, -1].mean(dim=1)

    def attention_maps(
        self, source: Tensor, target_in: Tensor, source_lengths: Tensor | None = None
    ) -> Tensor:
        """Return the cross-attention of every layer and head, (B, layers, N, T, S)."""
        memory = self.encode(source, source_lengths)
        self._check_target_in(target_in, memory)
        return self.decoder.alignment(self.target_embedding(target_in), memory.output, memory.mask)


def make_score(attention: str | None, hidden_size: int) -> Score | None:
    """Build the named score for queries of H and keys of 2 H features.

    Raises:
        ValueError: if the name is unknown.
    """
    H = hidden_size
    if attention is None:
        return None
    if attention not in ATTENTIONS:
        raise ValueError(
            f"expected attention to be None or one of {', '.join(ATTENTIONS)}, got {attention!r}"
        )
    return {
        "additive": lambda: AdditiveScore(H, 2 * H, H),
        "dot": lambda: DotScore(),
        "general": lambda: GeneralScore(H, 2 * H),
        "concat": lambda: ConcatScore(H, 2 * H, H),
    }[attention]()


def _side_by_side(state: Tensor) -> Tensor:
    """Put the two directions of each layer side by side: ``(L * 2, B, H)`` becomes ``(B, L, 2H)``."""
    return state.unflatten(0, (-1, 2)).permute(2, 0, 1, 3).flatten(2)


def _map(function, state: State) -> State:
    return tuple(function(part) for part in state) if isinstance(state, tuple) else function(state)


def _map2(function, one: State, other: State) -> State:
    if not isinstance(one, tuple):
        return function(one, other)
    return tuple(function(a, b) for a, b in zip(one, other, strict=True))


def _check_special_ids(vocabulary_size: int, **ids: int) -> None:
    for name, value in ids.items():
        if not isinstance(value, int) or not 0 <= value < vocabulary_size:
            raise ValueError(f"expected {name} in the vocabulary 0 .. {vocabulary_size - 1}, got {value}")
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"expected three different ids, got {ids}")


def _check_target(target: Tensor, begin_id: int, end_id: int) -> None:
    if target.dim() != 2 or target.shape[1] < 2:
        raise ValueError(f"expected targets (B, T + 1) from begin to end, got shape {tuple(target.shape)}")
    begins, ends = target[:, 0] == begin_id, (target == end_id).any(dim=1)
    for found, problem in ((begins, f"begins with id {begin_id}"), (ends, f"contains the end id {end_id}")):
        if not found.all():
            row = int((~found).nonzero()[0])
            raise ValueError(
                f"expected a target that {problem}, got {target[row].tolist()} in row {row}; "
                "encode it with begin=True and end=True"
            )
