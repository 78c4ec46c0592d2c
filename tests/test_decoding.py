"""Decoding: against exhaustive search and a loop without batches, for recurrent and Transformer alike."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from seqcourse.models import RecurrentTranslator, TransformerTranslator
from seqcourse.models.decoding import (
    Hypothesis,
    beam_candidates,
    beam_search,
    greedy,
    penalty_of_length,
    sample,
)

B, S, V_SOURCE, V = 4, 6, 12, 7
PAD, BEGIN, END = 0, 2, 3
LENGTHS = torch.tensor([6, 2, 5, 3])
MAX = 8


def lively(model, strength: float):
    """Strong weights, so that the most probable token changes from step to step, and sentence to sentence."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(strength)
    return model.double().eval()


def build(name: str, dropout: float = 0.0):
    torch.manual_seed(SEEDS[name])
    if name.startswith("transformer"):
        options = {"positions": name.split("-")[1], "dropout": dropout, "tie_weights": False}
        return lively(TransformerTranslator(V_SOURCE, V, 8, 2, 2, 12, **options), 2.0)
    kind, attention, layers = name.split("-")
    attention = None if attention == "none" else attention
    options = {"num_layers": int(layers), "dropout": dropout}
    return lively(RecurrentTranslator(V_SOURCE, V, 5, 6, kind, attention, **options), 3.0)


# Seeds with which the sentences of a batch end at different steps, see test_the_cases_can_differ.
SEEDS = {
    "gru-none-1": 27,
    "gru-additive-1": 27,
    "lstm-general-2": 48,
    "lstm-none-1": 1,
    "transformer-sinusoidal": 4,
    "transformer-rotary": 4,
    "transformer-learned": 0,
}


@pytest.fixture(params=SEEDS)
def model(request):
    return build(request.param)


@pytest.fixture
def source() -> Tensor:
    ids = torch.randint(4, V_SOURCE, (B, S), generator=torch.Generator().manual_seed(0))
    return ids.masked_fill(torch.arange(S) >= LENGTHS[:, None], PAD)


def log_probabilities(model, source: Tensor, written: list[int]) -> Tensor:
    """Of the next token, from the whole prefix again, without padding and begin."""
    logits = model(source[None], torch.tensor([[BEGIN, *written]]))[0, -1].detach().clone()
    logits[[PAD, BEGIN]] = -math.inf
    return logits - logits.logsumexp(0)


def slow_greedy(model, source: Tensor, max_length: int) -> Hypothesis:
    written, score = [], 0.0
    for _ in range(max_length):
        values = log_probabilities(model, source, written)
        best = int(values.argmax())
        score += values[best].item()
        if best == END:
            return Hypothesis(written, score)
        written.append(best)
    return Hypothesis(written, score, ended=False)


def same(found: list[Hypothesis], expected: list[Hypothesis], scores: bool = True) -> None:
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    assert [h.ended for h in found] == [h.ended for h in expected]
    if scores:
        assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-10)


def test_the_cases_can_differ(source):
    lengths = {name: [len(h.tokens) for h in greedy(build(name), source, LENGTHS, MAX)] for name in SEEDS}
    assert all(len(set(found)) > 1 for found in lengths.values()), lengths
    beams = {name: beam_search(build(name), source, LENGTHS, MAX, beam=3) for name in SEEDS}
    differ = [
        [h.tokens for h in beams[name]] != [h.tokens for h in greedy(build(name), source, LENGTHS, MAX)]
        for name in SEEDS
    ]
    assert all(differ), differ


# --- greedy ----------------------------------------------------------------------------------------------


def test_greedy_equals_reading_everything_again_for_every_token(model, source):
    expected = [slow_greedy(model, row[:n], MAX) for row, n in zip(source, LENGTHS, strict=True)]
    same(greedy(model, source, LENGTHS, MAX), expected)
    same(greedy(model, source, max_length=MAX), expected)


def test_one_beam_is_greedy(model, source):
    for max_length in (1, 3, MAX):
        expected = greedy(model, source, LENGTHS, max_length)
        same(beam_search(model, source, LENGTHS, max_length, beam=1, length_penalty=0), expected)
        same(beam_search(model, source, LENGTHS, max_length, beam=1), expected, scores=False)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}])
def test_sampling_without_choice_is_greedy(model, source, options):
    same(sample(model, source, LENGTHS, MAX, **options), greedy(model, source, LENGTHS, MAX))


# --- beam ------------------------------------------------------------------------------------------------


def all_that_end(model, source: Tensor, max_length: int, exponent: float) -> list[Hypothesis]:
    """Every sequence of ordinary tokens that ends within max_length, best first."""
    found = []
    for length in range(max_length):
        for written in itertools.product([1, *range(4, V)], repeat=length):
            values = model(source[None], torch.tensor([[BEGIN, *written]]))[0].detach().clone()
            values[:, [PAD, BEGIN]] = -math.inf
            values = values.log_softmax(-1)
            total = sum(values[t, id_].item() for t, id_ in enumerate([*written, END]))
            found.append(Hypothesis(list(written), total / ((5 + length + 1) / 6) ** exponent))
    return sorted(found, key=lambda h: -h.score)


@pytest.mark.parametrize("exponent", [0.0, 2.0])
@pytest.mark.parametrize("name", ["gru-additive-1", "lstm-general-2", "transformer-rotary"])
def test_a_beam_wide_enough_is_exhaustive_search(name, source, exponent):
    model, max_length = build(name), 3
    expected = [
        all_that_end(model, row[:n], max_length, exponent) for row, n in zip(source, LENGTHS, strict=True)
    ]
    found = beam_candidates(model, source, LENGTHS, max_length, beam=200, length_penalty=exponent)
    for ours, theirs in zip(found, expected, strict=True):
        same(ours, theirs)
    best = beam_search(model, source, LENGTHS, max_length, beam=200, length_penalty=exponent)
    same(best, [theirs[0] for theirs in expected])


def slow_beam(model, source: Tensor, max_length: int, beam: int, exponent: float) -> list[Hypothesis]:
    """One sentence, lists instead of tensors."""
    alive, done = [([], 0.0)], []
    for _ in range(max_length):
        continued = []
        for written, score in alive:
            values = log_probabilities(model, source, written).tolist()
            continued += [(written, id_, score + v) for id_, v in enumerate(values) if v > -math.inf]
        continued.sort(key=lambda c: -c[2])
        for written, id_, score in continued[:beam]:
            if id_ == END:
                done.append(Hypothesis(written, score / ((5 + len(written) + 1) / 6) ** exponent))
        alive = [([*written, id_], score) for written, id_, score in continued if id_ != END][:beam]
        if len(done) >= beam:
            break
    rest = [Hypothesis(w, s / ((5 + len(w)) / 6) ** exponent, ended=False) for w, s in alive]
    return sorted(done or rest, key=lambda h: -h.score)


@pytest.mark.parametrize("beam", [2, 5])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_beam_search_equals_one_without_batches(model, source, beam, exponent):
    for max_length in (2, MAX):
        found = beam_candidates(model, source, LENGTHS, max_length, beam, exponent)
        for row, n, ours in zip(source, LENGTHS, found, strict=True):
            same(ours, slow_beam(model, row[:n], max_length, beam, exponent))


def test_the_length_penalty_is_that_of_wu_et_al():
    assert penalty_of_length(1, 0.6) == 1
    assert penalty_of_length(7, 0) == 1
    assert penalty_of_length(19, 0.5) == pytest.approx(2.0)


# --- sampling --------------------------------------------------------------------------------------------


CHI_SQUARE_4 = 18.47  # 0.999 quantile for 4 degrees of freedom


def test_sampled_first_tokens_have_the_models_frequencies(source):
    model, n = build("gru-additive-1"), 4000
    with torch.no_grad():
        model.head.weight.mul_(0.3)
    row = source[:1].expand(n, S)
    drawn = sample(model, row, max_length=1, generator=torch.Generator().manual_seed(0), with_alignment=False)
    ids = torch.tensor([END if h.ended else h.tokens[0] for h in drawn])
    expected = n * log_probabilities(model, source[0], []).exp()
    possible = expected > 0
    observed = torch.bincount(ids, minlength=V)
    assert not observed[~possible].any() and possible.sum() == 5
    assert ((observed - expected).square() / expected)[possible].sum() < CHI_SQUARE_4


def test_sampling_repeats_with_a_seed_and_its_score_is_the_models(model, source):
    draws = [
        sample(model, source, LENGTHS, MAX, temperature=1.5, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    same(draws[0], draws[1])
    assert [h.tokens for h in draws[0]] != [h.tokens for h in draws[2]]
    for row, n, hypothesis in zip(source, LENGTHS, draws[0], strict=True):
        score = 0.0
        for t, id_ in enumerate([*hypothesis.tokens, END][: len(hypothesis.tokens) + hypothesis.ended]):
            score += log_probabilities(model, row[:n], hypothesis.tokens[:t])[id_].item()
        assert hypothesis.score == pytest.approx(score, abs=1e-10)


# --- all -------------------------------------------------------------------------------------------------


SEARCHES = {
    "greedy": greedy,
    "beam": lambda *args: beam_search(*args, beam=3),
    "sample": lambda *args: sample(*args, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_the_result_of_a_sentence_does_not_depend_on_its_batch(model, source, search):
    together = SEARCHES[search](model, source, LENGTHS, MAX)
    for i, n in enumerate(LENGTHS):
        same(SEARCHES[search](model, source[i : i + 1, :n], None, MAX), together[i : i + 1])


@pytest.mark.parametrize("search", SEARCHES)
def test_alignments_are_those_of_the_model(model, source, search):
    for i, hypothesis in enumerate(SEARCHES[search](model, source, LENGTHS, MAX)):
        if not model.attends:
            assert hypothesis.alignment is None
            continue
        n, tokens = int(LENGTHS[i]), hypothesis.tokens
        assert hypothesis.alignment.shape == (len(tokens), n)
        if tokens:
            expected = model.alignment(source[i : i + 1, :n], torch.tensor([[BEGIN, *tokens[:-1]]]))[0]
            torch.testing.assert_close(hypothesis.alignment, expected, rtol=0, atol=1e-10)


def test_alignments_can_be_left_out(source):
    assert greedy(build("gru-additive-1"), source, with_alignment=False)[0].alignment is None


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", ["gru-additive-1", "transformer-sinusoidal"])
def test_dropout_is_off_and_the_modes_come_back(name, source, search):
    model = build(name, dropout=0.5).train()
    model.encoder.eval()  # frozen by the caller
    modes = [module.training for module in model.modules()]
    expected = SEARCHES[search](build(name), source, LENGTHS, MAX)
    same(SEARCHES[search](model, source, LENGTHS, MAX), expected)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError, match="outside the vocabulary"):
        SEARCHES[search](model, source + V_SOURCE, None, MAX)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("search", SEARCHES)
def test_who_has_ended_is_computed_no_further(source, search):
    model = build("gru-none-1")
    rows, decode = [], model.decode

    def counting(target, memory, state):
        assert target.shape[1] == 1
        rows.append(len(target))
        return decode(target, memory, state)

    model.decode = counting
    found = SEARCHES[search](model, source, LENGTHS, MAX)
    assert rows == sorted(rows, reverse=True) and rows[-1] < rows[0]
    if search != "beam":
        steps = [len(h.tokens) + h.ended for h in found]
        assert rows == [sum(t < n for n in steps) for t in range(max(steps))]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (torch.ones(0, 3).long(), (None, 5), ValueError, "at least one sequence"),
        (torch.ones(2, 0).long(), (None, 5), ValueError, "at least one sequence"),
        (torch.ones(2, 3), (None, 5), TypeError, "integer tensor"),
        (torch.full((2, 3), V_SOURCE), (None, 5), ValueError, "token id 12 is outside"),
        (torch.ones(2, 3).long(), (torch.tensor([3, 4]), 5), ValueError, "lengths from 1 to T=3"),
        (torch.ones(2, 3).long(), (None, 0), ValueError, "max_length of at least 1, got 0"),
    ],
)
def test_wrong_use_is_named(search, source, options, error, message):
    with pytest.raises(error, match=message):
        SEARCHES[search](build("gru-none-1"), source, *options)


def test_wrong_options_are_named(source):
    with pytest.raises(ValueError, match="beam of at least 1, got 0"):
        beam_search(build("gru-none-1"), source, beam=0)
    with pytest.raises(ValueError, match="temperature of at least 0"):
        sample(build("gru-none-1"), source, temperature=-1)
