"""Writing a translation token by token: greedy search, beam search, sampling; one interface for all models.

Each function takes any :class:`~seqcourse.models.translation.Translator` and a batch of sources, and returns
one :class:`Hypothesis` per sentence. Dropout is off meanwhile. A sentence that has ended leaves the batch, so
the others go on faster; the result for a sentence does not depend on its batch (but for draws of
:func:`sample`). Padding and the begin token are never written.

Letters: B sentences, S source positions, K beams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seqcourse.models.common import lengths_from_padding
from seqcourse.models.sampling import check_sampling, next_token_probabilities
from seqcourse.models.translation import Translator


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Shapes:
        alignment ``(len(tokens), length of the source)``, or None.

    Args:
        tokens: ids without begin and end.
        score: the log-probability of tokens and end; for a beam search divided by the length penalty.
        alignment: how much each source token counted for each token, if the model attends.
        ended: whether the end token was reached, or ``max_length`` before it.
    """

    tokens: list[int]
    score: float
    alignment: Tensor | None = None
    ended: bool = True


def greedy(
    model: Translator,
    source: Tensor,
    source_lengths: Tensor | None = None,
    max_length: int = 100,
    with_alignment: bool = True,
) -> list[Hypothesis]:
    """Take the most probable token at every step.

    Shapes:
        source (B, S), source_lengths (B,); returns B hypotheses.

    Args:
        model: any translator.
        source: ids, padded at the end.
        source_lengths: real tokens per sentence; by default all up to the last that is not padding.
        max_length: most tokens per sentence, the end token counted.
        with_alignment: read the result once more for its alignment, where the model has one.

    Raises:
        TypeError: if source or lengths are not integer tensors.
        ValueError: if a shape, an id, a length or an option does not fit.
    """

    def most_probable(log_probabilities: Tensor) -> Tensor:
        return log_probabilities.argmax(dim=1)

    with reading(model):
        found = _one_by_one(model, source, source_lengths, max_length, most_probable)
        return _finish(model, source, source_lengths, found, with_alignment)


def sample(
    model: Translator,
    source: Tensor,
    source_lengths: Tensor | None = None,
    max_length: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    with_alignment: bool = True,
) -> list[Hypothesis]:
    """Draw every token from the model's distribution.

    Shapes:
        source (B, S), source_lengths (B,); returns B hypotheses. Their score is under the model itself,
        whatever temperature, top_k and top_p did to the draws.

    Args:
        model: any translator.
        source: ids, padded at the end.
        source_lengths: real tokens per sentence; by default all up to the last that is not padding.
        max_length: most tokens per sentence, the end token counted.
        temperature: above 1 more surprising, below 1 less; 0 is greedy.
        top_k: draw from so many most probable tokens only.
        top_p: draw from the most probable tokens that together have this probability.
        generator: source of randomness; by default torch's global one.
        with_alignment: read the result once more for its alignment, where the model has one.

    Raises:
        TypeError: if source or lengths are not integer tensors.
        ValueError: if a shape, an id, a length or an option does not fit.
    """
    check_sampling(temperature, top_k, top_p)

    def draw(log_probabilities: Tensor) -> Tensor:
        probabilities = next_token_probabilities(log_probabilities, temperature, top_k, top_p)
        where = probabilities.device if generator is None else generator.device
        drawn = torch.multinomial(probabilities.to(where), 1, generator=generator)
        return drawn[:, 0].to(log_probabilities.device)

    with reading(model):
        found = _one_by_one(model, source, source_lengths, max_length, draw)
        return _finish(model, source, source_lengths, found, with_alignment)


def beam_search(
    model: Translator,
    source: Tensor,
    source_lengths: Tensor | None = None,
    max_length: int = 100,
    beam: int = 4,
    length_penalty: float = 0.6,
    with_alignment: bool = True,
) -> list[Hypothesis]:
    """Keep the K most probable beginnings at every step; return the best of those that ended.

    A hypothesis ends when its end token is among the K best continuations. A sentence stops when K hypotheses
    have ended, or at ``max_length``; if none has ended there, the most probable beginning is returned. With
    one beam it is :func:`greedy`. Hypotheses are ranked by log-probability over :func:`penalty_of_length`.

    Shapes:
        source (B, S), source_lengths (B,); returns B hypotheses.

    Args:
        model: any translator.
        source: ids, padded at the end.
        source_lengths: real tokens per sentence; by default all up to the last that is not padding.
        max_length: most tokens per sentence, the end token counted.
        beam: K.
        length_penalty: 0 ranks by log-probability alone, which prefers short sentences; 1 nearly by the mean
            per token.
        with_alignment: read the result once more for its alignment, where the model has one.

    Raises:
        TypeError: if source or lengths are not integer tensors.
        ValueError: if a shape, an id, a length or an option does not fit.
    """
    candidates = beam_candidates(model, source, source_lengths, max_length, beam, length_penalty)
    with reading(model):
        return _finish(model, source, source_lengths, [best[0] for best in candidates], with_alignment)


def beam_candidates(
    model: Translator,
    source: Tensor,
    source_lengths: Tensor | None = None,
    max_length: int = 100,
    beam: int = 4,
    length_penalty: float = 0.6,
) -> list[list[Hypothesis]]:
    """Return what a beam search found for each sentence, best first, without alignments.

    Shapes, arguments and errors are those of :func:`beam_search`.
    """
    if beam < 1:
        raise ValueError(f"expected a beam of at least 1, got {beam}")
    _check_max_length(max_length)
    with reading(model):
        search = _BeamSearch(model, source, source_lengths, beam, length_penalty)
        for _ in range(max_length):
            search.step()
            if not search.alive:
                break
        return search.results()


def penalty_of_length(length: int, exponent: float) -> float:
    """Return what a log-probability is divided by: ``((5 + length) / 6) ** exponent``.

    Wu et al. (2016), Google's Neural Machine Translation System, equation 14, without the coverage term.

    Args:
        length: tokens, the end token counted.
        exponent: alpha in the paper, which takes 0.2 to 0.65.
    """
    return ((5 + length) / 6) ** exponent


@contextmanager
def reading(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def next_log_probabilities(model: Translator, logits: Tensor) -> Tensor:
    """Return log-probabilities of the tokens that may follow: neither padding nor the begin token.

    Shapes:
        logits (..., V); returns the same, float32 at least.
    """
    never = torch.tensor([model.pad_id, model.begin_id], device=logits.device)
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return logits.index_fill(-1, never, -math.inf).log_softmax(dim=-1)


def _one_by_one(
    model: Translator,
    source: Tensor,
    lengths: Tensor | None,
    max_length: int,
    choose: Callable[[Tensor], Tensor],
) -> list[Hypothesis]:
    """Write one token per step and sentence until all have ended."""
    _check_max_length(max_length)
    memory = model.encode(source, lengths)
    state = model.start(memory)
    found = [Hypothesis([], 0.0, ended=False) for _ in source]
    alive = list(range(len(source)))  # the sentence of each row
    token = source.new_full((len(source), 1), model.begin_id)  # (rows, 1)
    for _ in range(max_length):
        logits, state = model.decode(token, memory, state)
        log_probabilities = next_log_probabilities(model, logits[:, -1])  # (rows, V)
        token = choose(log_probabilities)[:, None]
        chosen = log_probabilities.gather(1, token)
        for i, id_, value in zip(alive, token[:, 0].tolist(), chosen[:, 0].tolist(), strict=True):
            found[i] = _extend(found[i], id_, value, model.end_id)
        rows = [row for row, i in enumerate(alive) if not found[i].ended]
        if not rows:
            break
        if len(rows) < len(alive):  # who has ended leaves
            kept = torch.tensor(rows, device=source.device)
            memory, state, token = memory.select(kept), state.select(kept), token[kept]
            alive = [alive[row] for row in rows]
    return found


def _extend(hypothesis: Hypothesis, token: int, log_probability: float, end_id: int) -> Hypothesis:
    score, ended = hypothesis.score + log_probability, token == end_id
    tokens = hypothesis.tokens if ended else [*hypothesis.tokens, token]
    return Hypothesis(tokens, score, ended=ended)


class _BeamSearch:
    """K beginnings per sentence, those of one sentence next to each other in the batch."""

    def __init__(
        self, model: Translator, source: Tensor, lengths: Tensor | None, beam: int, length_penalty: float
    ) -> None:
        self.model, self.beam, self.length_penalty = model, beam, length_penalty
        memory = model.encode(source, lengths)
        sentences = torch.arange(len(source), device=source.device)
        self.memory = memory.select(sentences.repeat_interleave(beam))
        self.state = model.start(self.memory)
        self.tokens = source.new_full((len(source), beam, 1), model.begin_id)  # (B, K, T)
        # All beginnings are the same at first; without this they would stay so.
        self.scores = self.memory.output.new_full((len(source), beam), -math.inf)  # (B, K)
        self.scores[:, 0] = 0.0
        self.ended: list[list[Hypothesis]] = [[] for _ in source]
        self.alive = list(range(len(source)))  # the sentence of each K rows

    def step(self) -> None:
        """Extend every beginning by one token, keep the best, take out what has ended."""
        scores, parents, tokens = self._continuations()
        ended = tokens == self.model.end_id  # (B, 2K)
        self._take_ended(scores, parents, ended)
        # At most K of the 2 K continuations end, one per beginning, so at least K go on.
        best = ended.long().argsort(dim=1, stable=True)[:, : self.beam]
        self._go_on(scores.gather(1, best), parents.gather(1, best), tokens.gather(1, best))

    def results(self) -> list[list[Hypothesis]]:
        """Return what has ended, best first; where nothing has, the beginnings."""
        for row, i in enumerate(self.alive):
            if not self.ended[i]:
                pairs = zip(self.tokens[row], self.scores[row].tolist(), strict=True)
                self.ended[i] = [self._hypothesis(*pair, False) for pair in pairs if pair[1] > -math.inf]
        return [sorted(found, key=lambda hypothesis: -hypothesis.score) for found in self.ended]

    def _continuations(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return score, beginning and token of the 2 K best continuations, ``(B, 2K)`` each, best first."""
        last = self.tokens[:, :, -1].flatten()[:, None]  # (B K, 1)
        logits, self.state = self.model.decode(last, self.memory, self.state)
        log_probabilities = next_log_probabilities(self.model, logits[:, -1]).unflatten(0, self.scores.shape)
        total = self.scores[:, :, None] + log_probabilities  # (B, K, V)
        scores, index = total.flatten(1).topk(2 * self.beam, dim=1)
        return scores, index // total.shape[2], index % total.shape[2]

    def _take_ended(self, scores: Tensor, parents: Tensor, ended: Tensor) -> None:
        """Keep what ended among the K best; further down, it is worse than what goes on."""
        kept = ended[:, : self.beam] & scores[:, : self.beam].isfinite()
        for row, place in kept.nonzero().tolist():
            tokens = self.tokens[row, parents[row, place]]
            self.ended[self.alive[row]].append(self._hypothesis(tokens, scores[row, place].item(), True))

    def _hypothesis(self, tokens: Tensor, log_probability: float, ended: bool) -> Hypothesis:
        ids = tokens[1:].tolist()  # without the begin token
        score = log_probability / penalty_of_length(len(ids) + ended, self.length_penalty)
        return Hypothesis(ids, score, ended=ended)

    def _go_on(self, scores: Tensor, parents: Tensor, tokens: Tensor) -> None:
        rows = [row for row, i in enumerate(self.alive) if len(self.ended[i]) < self.beam]
        kept = torch.tensor(rows, dtype=torch.long, device=scores.device)
        beams = torch.arange(self.beam, device=scores.device)
        if len(rows) < len(
            self.alive
        ):  # the beams of a sentence share its memory, so their order is no matter
            self.memory = self.memory.select((kept[:, None] * self.beam + beams).flatten())
        parents = parents[kept]
        self.state = self.state.select((kept[:, None] * self.beam + parents).flatten())
        before = self.tokens[kept[:, None], parents]  # (B, K, T)
        self.tokens = torch.cat([before, tokens[kept, :, None]], dim=2)
        self.scores, self.alive = scores[kept], [self.alive[row] for row in rows]


def _finish(
    model: Translator,
    source: Tensor,
    lengths: Tensor | None,
    found: list[Hypothesis],
    with_alignment: bool,
) -> list[Hypothesis]:
    """Add the alignments: one more reading of the source and of what was written."""
    if not (with_alignment and model.attends):
        return found
    longest = max(1, *(len(hypothesis.tokens) for hypothesis in found))
    target_in = source.new_full((len(found), longest), model.pad_id)
    target_in[:, 0] = model.begin_id
    for row, hypothesis in enumerate(found):
        before = hypothesis.tokens[:-1]
        target_in[row, 1 : len(before) + 1] = torch.tensor(before, dtype=source.dtype)
    weights = model.alignment(source, target_in, lengths)  # (B, T, S)
    lengths = lengths_from_padding(source, model.pad_id) if lengths is None else lengths
    return [
        replace(hypothesis, alignment=of_row[: len(hypothesis.tokens), :length])
        for hypothesis, of_row, length in zip(found, weights, lengths.tolist(), strict=True)
    ]


def _check_max_length(max_length: int) -> None:
    if max_length < 1:
        raise ValueError(f"expected max_length of at least 1, got {max_length}")
