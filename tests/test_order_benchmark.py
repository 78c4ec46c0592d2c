"""The order benchmark: twins share their tokens, blindness is exact, reach is counted right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seqcourse.attention import RotaryPositions
from seqcourse.benchmarks import order
from seqcourse.benchmarks.order import (
    OrderClassifier,
    accuracy,
    draw_marks,
    draw_sentences,
    sentence_or_shuffled,
    short_sentences,
    which_comes_first,
)
from seqcourse.claims import verdict
from seqcourse.data import load_multi30k
from seqcourse.probes import gradient_map, path_lengths
from seqcourse.recurrent import GRU, RNN


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def same_bags(tokens: torch.Tensor) -> bool:
    """Whether each example holds the tokens of its twin."""
    return torch.equal(tokens[0::2].sort(dim=1).values, tokens[1::2].sort(dim=1).values)


# --- the tasks ---------------------------------------------------------------------------------------------


def test_marks_stand_once_and_in_the_order_that_the_label_says(generator):
    tokens, lengths, labels = which_comes_first(50, 9, generator)
    assert tokens.shape == (100, 9) and lengths.tolist() == [9] * 100
    assert ((tokens == 0).sum(1) == 1).all() and ((tokens == 1).sum(1) == 1).all()
    first = (tokens == 0).int().argmax(1) < (tokens == 1).int().argmax(1)
    assert torch.equal(first.long(), labels)
    assert torch.equal(labels[0::2], 1 - labels[1::2]) and same_bags(tokens)
    assert tokens.max() < order.MARKS + order.NOISE_TOKENS


def test_shuffled_sentences_keep_their_words_and_their_padding(generator):
    tokens = torch.tensor([[5, 6, 7, 8, 9, 4], [3, 2, 1, 9, 0, 0]])
    lengths = torch.tensor([6, 4])
    drawn = [sentence_or_shuffled(tokens, lengths, generator) for _ in range(20)]
    for examples in drawn:
        assert torch.equal(examples.tokens[0::2], tokens) and same_bags(examples.tokens)
        assert examples.tokens[3, 4:].tolist() == [0, 0] and examples.lengths.tolist() == [6, 6, 4, 4]
        assert examples.labels.tolist() == [1, 0, 1, 0]
    assert len({tuple(examples.tokens[1].tolist()) for examples in drawn}) > 10


def test_sentences_are_short_and_have_no_full_stop():
    texts = load_multi30k(("de", "en"), generated=True)
    sentences = short_sentences(texts, 4, 9)
    lengths = {len(sentence) for part in sentences[:2] for sentence in part}
    assert sentences.train and sentences.test and min(lengths) >= 4 and max(lengths) <= 9
    assert "." not in sentences.tokeniser.tokens
    assert max(max(sentence) for sentence in sentences.train) < len(sentences.tokeniser) <= 2000
    batch = draw_sentences(sentences.train, 5)(torch.Generator().manual_seed(0))
    assert batch.tokens.shape[0] == 10


def test_lengths_of_a_draw_stay_in_their_range(generator):
    draw = draw_marks(2, (4, 7))
    assert {draw(generator).tokens.shape[1] for _ in range(60)} == {4, 5, 6, 7}


# --- the model ---------------------------------------------------------------------------------------------


def logits(model: OrderClassifier, examples: order.Examples) -> tuple[torch.Tensor, torch.Tensor]:
    found = model.double()(examples.tokens, examples.lengths)
    return found[0::2], found[1::2]


def test_without_positions_and_with_a_full_mask_twins_look_the_same(generator):
    one, other = logits(OrderClassifier(18), which_comes_first(20, 11, generator))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert accuracy(OrderClassifier(18), which_comes_first(200, 11, generator)) == 0.5


@pytest.mark.parametrize("model", [name for name in order.MODELS if name != "no positions"])
def test_every_other_model_tells_twins_apart(model, generator):
    positions, causal = order.MODELS[model]
    torch.manual_seed(0)
    one, other = logits(OrderClassifier(18, positions, causal), which_comes_first(20, 11, generator))
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("model", order.MODELS)
def test_padding_does_not_matter(model, generator):
    classifier = OrderClassifier(18, *order.MODELS[model])
    tokens, lengths, _ = which_comes_first(4, 6, generator)
    padded = torch.cat([tokens, torch.zeros(8, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(classifier(tokens, lengths), classifier(padded, lengths))


def test_rotary_reaches_every_block_and_an_unknown_kind_is_named():
    kinds = [type(block.self_attention.rotary) for block in OrderClassifier(9, "rotary").encoder.blocks]
    assert kinds == [RotaryPositions, RotaryPositions]
    with pytest.raises(ValueError, match="one of none, rotary, sinusoidal, learned, got 'alibi'"):
        OrderClassifier(9, "alibi")


def test_training_learns_the_order_of_marks_with_a_causal_mask():
    torch.manual_seed(0)
    classifier = OrderClassifier(18, "none", causal=True)
    losses = order.train_classifier(classifier, draw_marks(16, (4, 8)), 80, seed=0)
    assert len(losses) == 80
    assert accuracy(classifier, which_comes_first(200, 8, torch.Generator().manual_seed(1))) > 0.9


# --- reach -------------------------------------------------------------------------------------------------


def test_gradient_map_of_a_known_layer(generator):
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64).tril()
    x = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    found = gradient_map(lambda x: torch.einsum("ts,bsd->btd", weight, x), x)
    scale = found[0, 0] / weight[0, 0].abs()  # the length of the random mix, the same for all
    torch.testing.assert_close(found, scale * weight.abs())


def test_gradient_map_takes_a_recurrent_layer_as_it_is():
    found = gradient_map(RNN(3, 4).double(), torch.randn(2, 6, 3, dtype=torch.float64))
    assert torch.equal(found > 0, torch.ones(6, 6).tril().bool())


def test_path_lengths_are_counted_in_the_graph():
    x = torch.randn(2, 4, 3)

    def add_up(inputs: list[torch.Tensor]) -> torch.Tensor:
        total = inputs[0]
        for x_t in inputs[1:]:
            total = (total + x_t).tanh()  # two operations per step
        return total

    # The last node is the leaf's own; the first two inputs meet in one sum.
    assert path_lengths(add_up, x) == [2, 4, 6, 6]
    assert path_lengths(lambda inputs: torch.stack(inputs).sum(0), x) == [2, 2, 2, 2]
    with pytest.raises(ValueError, match=r"inputs at \[0, 2\]"):
        path_lengths(lambda inputs: inputs[1] * inputs[3], x)


def test_the_last_output_by_steps_is_that_of_the_layer():
    """The path is measured on the layer whose gradient is."""
    x = torch.randn(3, 7, 32, dtype=torch.float64)
    for model in order.REACHING:
        torch.manual_seed(0)
        layer, last = order.layer_to_reach_with(model, lag=6)
        torch.testing.assert_close(last(list(x.unbind(dim=1))), layer(x)[:, -1], rtol=0, atol=1e-12)


def test_attention_is_one_step_from_everywhere_and_a_recurrence_is_not():
    torch.manual_seed(0)
    attention, causal, lstm = (order.measure_reach(model, 12) for model in order.REACHING[:3])
    path, pairs, _ = attention
    assert attention[path] == causal[path] == 0 and lstm[path] >= 1
    assert attention[pairs] == 1 and causal[pairs] == lstm[pairs] == 14 / 26


def test_the_layers_of_other_kinds_are_reached_too():
    gru = GRU(3, 4).double()
    paths = path_lengths(lambda inputs: order.last_of_recurrence(gru, inputs), torch.randn(2, 5, 3).double())
    assert paths == sorted(paths) and paths[-1] > paths[0] + 3


# --- the benchmark -----------------------------------------------------------------------------------------


def test_the_smoke_profile_gives_every_claim_what_its_rule_needs(tmp_path):
    found = order.BENCHMARK.run("smoke", None, "cpu", False, tmp_path)
    assert {claim for record in found for claim in record.claims} == {"C09", "M06"}
    for claim in ("C09", "M06"):
        assert "No record" not in verdict(claim, found).reason
    assert verdict("M06", found).status == "qualified"
    assert len({record.name for record in found}) == len(found)
    beyond = [record for record in found if not record.claims]
    assert {record.protocol["length"] for record in beyond} == {16} and len(beyond) == len(order.MODELS)


def test_an_interrupted_run_resumes_and_repeats_nothing(tmp_path, monkeypatch):
    plan, measure, measured = order.Plan(1, 1, 1, 2, 6, (6,), 3, test_pairs=2), order.mark_piece, []
    monkeypatch.setattr(order, "PLANS", {"smoke": plan})
    monkeypatch.setattr(order, "sentence_piece", lambda *_: {"accuracy": {"6": 0.5}, "seconds": 0.0})

    def interrupted(model, *rest):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(model)
        return measure(model, *rest)

    monkeypatch.setattr(order, "mark_piece", interrupted)
    with pytest.raises(KeyboardInterrupt):
        order.run("smoke", 1, "cpu", True, tmp_path)
    monkeypatch.setattr(
        order, "mark_piece", lambda model, *rest: (measured.append(model), measure(model, *rest))[1]
    )
    found = order.run("smoke", 1, "cpu", True, tmp_path)
    assert measured == list(order.MODELS)  # each once, over both runs
    assert [r.n for r in found if r.metric == "accuracy on order"] == [1] * 2 * len(order.MODELS)


def test_runs_repeat_with_the_seed():
    plan = order.Plan(1, 3, 3, 4, 6, (6,), 4)
    first, again = (order.mark_records("rotary", plan, [0, 1], "cpu") for _ in range(2))
    assert [record.values for record in first] == [record.values for record in again]


def test_the_models_have_the_same_size_but_for_the_learned_table():
    sizes = {
        model: sum(p.numel() for p in order.seeded_model(model, 18, 0, "cpu").parameters())
        for model in order.MODELS
    }
    learned = sizes.pop("learned")
    assert set(sizes.values()) == {learned - order.MAX_LENGTH * 32}
    assert isinstance(order.added_positions("rotary", 8), nn.Identity)
