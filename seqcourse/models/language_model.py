"""What comes next? Language models, their loss, and text from them; the recurrent one is here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.cells import State
from seqcourse.data.batching import IGNORED_LABEL
from seqcourse.engine import map_tensors
from seqcourse.models.common import check_tokens, make_recurrent
from seqcourse.models.sampling import check_sampling, next_token_probabilities
from seqcourse.recurrent import Recurrent


class NextTokenModel(nn.Module):
    """What language models share: the loss of a batch, and text drawn token by token.

    A subclass gives ``vocabulary_size``, an output layer ``head``, and ``forward(tokens, state=None)``, which
    returns the logits of the token after each token, (B, T, V), and the state to go on from.
    """

    vocabulary_size: int
    head: nn.Linear
    max_length: int | None = None  # the longest text it can read; None: any

    def loss(self, batch: Any) -> Tensor:
        """Return the mean cross-entropy of the next token in nats; every batch starts from the initial state.

        Args:
            batch: tokens (B, T), of which all but the first are targets; or (tokens, targets); or a padded
                ``Batch``.
        """
        tokens, targets = inputs_and_targets(batch)
        logits, _ = self(tokens)
        return next_token_loss(logits, targets)

    def generate(
        self,
        prompt: Sequence[int] | Tensor,
        max_new: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        stop_id: int | None = None,
    ) -> Iterator[int]:
        """Continue a text, one token at a time, each as soon as it is drawn; dropout is off.

        Args:
            prompt: ids to start from, at least one.
            max_new: how many tokens to generate at most.
            temperature: above 1 more surprising, below 1 less; 0 always takes the most probable token.
            top_k: draw from so many most probable tokens only.
            top_p: draw from the most probable tokens that together have this probability.
            generator: source of randomness; by default torch's global one.
            stop_id: stop after this token.

        Raises:
            ValueError: if the prompt is empty or holds unknown ids, an option is out of range, or the text
                would get longer than the model can read.
        """
        check_sampling(temperature, top_k, top_p)
        if max_new < 0:
            raise ValueError(f"expected max_new of at least 0, got {max_new}")
        tokens = torch.as_tensor(prompt)
        if tokens.dim() != 1 or len(tokens) == 0:
            raise ValueError(
                f"expected a prompt of at least one id, one-dimensional; got shape {tuple(tokens.shape)}. "
                "To start from nothing, pass the tokeniser's begin_id or a line break"
            )
        check_tokens(tokens.unsqueeze(0), self.vocabulary_size)
        if self.max_length is not None and len(tokens) + max_new - 1 > self.max_length:
            raise ValueError(
                f"expected at most {self.max_length} positions to read, got a prompt of {len(tokens)} tokens and "
                f"{max_new=}"
            )
        return self._stream(tokens, max_new, stop_id, generator, (temperature, top_k, top_p))

    def _stream(
        self,
        tokens: Tensor,
        max_new: int,
        stop_id: int | None,
        generator: torch.Generator | None,
        options: tuple,
    ) -> Iterator[int]:
        """Read the prompt once, then one token per step: the state remembers the rest."""
        tokens, state = tokens.to(self.head.weight.device).unsqueeze(0), None  # (1, T)
        for _ in range(max_new):
            logits, state = self._read_only(tokens, state)
            probabilities = next_token_probabilities(logits[0, -1].float(), *options)  # (V,)
            if generator is not None:
                probabilities = probabilities.to(generator.device)
            tokens = (
                torch.multinomial(probabilities, 1, generator=generator).to(tokens.device).unsqueeze(0)
            )  # (1, 1)
            yield (token := tokens.item())
            if token == stop_id:
                return

    @torch.no_grad()
    def _read_only(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Run without dropout and gradients; between two steps the caller finds its own modes unchanged."""
        was_training = self.training
        self.eval()
        result = self(tokens, state)
        self.train(was_training)
        return result


class LanguageModel(NextTokenModel):
    """Embed the tokens, read them with a recurrent layer, and predict the next token after each.

    Shapes:
        tokens (B, T), state as of the recurrent layer; returns logits (B, T, V) and the state after the last.

    Args:
        vocabulary_size: V.
        embedding_size: features per token.
        hidden_size: H.
        recurrent: ``"rnn"``, ``"lstm"``, ``"gru"`` or a ready :class:`~seqcourse.recurrent.Recurrent`.
        num_layers: L.
        dropout: of embeddings, between layers, and of the outputs.
        tie_weights: use the embedding as output weights too (Press & Wolf 2017, Using the Output Embedding);
            needs ``embedding_size == hidden_size``.

    Raises:
        ValueError: if the layer is bidirectional (it would see the token it predicts), unknown or does not
            fit, or tied sizes differ.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        recurrent: str | Recurrent = "lstm",
        num_layers: int = 1,
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.recurrent = make_recurrent(recurrent, embedding_size, hidden_size, num_layers, dropout)
        if self.recurrent.bidirectional:
            raise ValueError("expected one direction: a bidirectional layer sees the token it has to predict")
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, vocabulary_size)
        if tie_weights:
            self._tie(embedding_size, hidden_size)

    def _tie(self, embedding_size: int, hidden_size: int) -> None:
        if embedding_size != hidden_size:
            raise ValueError(
                f"tied weights need embedding_size == hidden_size, got {embedding_size} and {hidden_size}"
            )
        nn.init.normal_(
            self.embedding.weight, std=hidden_size**-0.5
        )  # as output weights they must start small
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits of the token after each token, and the state to go on from.

        Raises:
            TypeError: if tokens are not an integer tensor.
            ValueError: if a shape or an id does not fit.
        """
        check_tokens(tokens, self.vocabulary_size)
        embedded = self.dropout(self.embedding(tokens))  # (B, T) -> (B, T, D)
        output, state = self.recurrent(embedded, state)  # (B, T, H)
        return self.head(self.dropout(output)), state  # (B, T, V)


class StreamLoss:
    """The loss of a language model on contiguous streams: each batch goes on from the last one's state.

    Gradients stop at the batch's start: truncated back-propagation through time (Williams & Peng 1990).
    Pass an instance as ``loss`` to :func:`seqcourse.training.fit`, with the batches of
    :func:`seqcourse.data.batching.language_model_batches`. Checkpoints keep the carried state. Training and
    validation have one each.
    """

    def __init__(self) -> None:
        self.carried: dict[str, State | None] = {"training": None, "evaluation": None}

    def __call__(self, model: LanguageModel, batch: Any) -> Tensor:
        """Return the mean cross-entropy in nats of a ``StreamBatch``."""
        mode = "training" if model.training else "evaluation"
        state = None if batch.begins else self.carried[mode]
        if state is not None:
            state = map_tensors(lambda tensor: tensor.to(batch.tokens.device), state)
        logits, state = model(batch.tokens, state)
        self.carried[mode] = map_tensors(Tensor.detach, state)
        return next_token_loss(logits, batch.targets)

    def state_dict(self) -> dict[str, State | None]:
        """Return the carried states."""
        return dict(self.carried)

    def load_state_dict(self, state: dict[str, State | None]) -> None:
        """Take up states from a checkpoint."""
        self.carried = dict(state)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats over the targets that are not padding.

    Shapes:
        logits (B, T, V), targets (B, T).
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL)


def inputs_and_targets(batch: Any) -> tuple[Tensor, Tensor]:
    """Take what is read and what is to be predicted out of a batch.

    Shapes:
        both (B, T); the targets of padding are -100.

    Raises:
        ValueError: if sequences of one token leave nothing to predict.
    """
    if hasattr(batch, "targets"):
        return batch.tokens, batch.targets
    if isinstance(batch, tuple | list):
        return batch[0], batch[1]
    tokens = batch if isinstance(batch, Tensor) else batch.tokens
    if tokens.shape[-1] < 2:
        raise ValueError(f"expected at least 2 tokens per sequence, got shape {tuple(tokens.shape)}")
    targets = tokens[:, 1:]
    if hasattr(batch, "mask"):
        targets = targets.masked_fill(~batch.mask[:, 1:], IGNORED_LABEL)
    return tokens[:, :-1], targets
