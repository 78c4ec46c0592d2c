"""The ablation benchmark: one thing changes at a time, nothing of the test is used, runs resume."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from seqcourse.benchmarks import ablation
from seqcourse.benchmarks.ablation import (
    BASE,
    BROKEN,
    SHORT,
    Corpus,
    Recipe,
    Speaker,
    accuracy,
    changes,
    inputs_for,
    make_corpus,
    set_aside,
    train,
)
from seqcourse.claims import verdict
from seqcourse.data import load_japanese_vowels

ALL = changes(Recipe())


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(load_japanese_vowels(generated=True))


# --- the changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in ALL if key != BASE])
def test_each_change_is_of_one_thing_and_stands_after_what_it_is_compared_with(key):
    change = ALL[key]
    mine, other = asdict(change.recipe), asdict(ALL[change.against].recipe)
    different = {name for name in mine if mine[name] != other[name]}
    assert len(different) == 1 or different == {"batch_size", "epochs"}
    keys = list(ALL)
    assert keys.index(change.against) < keys.index(key)


def test_the_changes_are_those_that_the_claims_name():
    base = ALL[BASE].recipe
    rates = [ALL[key].recipe.learning_rate / base.learning_rate for key in ALL if key.startswith("learning")]
    assert rates == pytest.approx([1 / 10, 1 / 3, 3, 10])
    sizes = [ALL[key].recipe.hidden_size / base.hidden_size for key in ALL if key.startswith("hidden")]
    assert sizes == [1 / 4, 1 / 2, 2, 4]
    assert ALL["length/RNN cut"].recipe.longest == SHORT < 20
    places = {(c.recipe.norm, c.recipe.place) for c in ALL.values() if "A04" in c.claims}
    assert places >= {(norm, place) for norm in ("layer", "batch") for place in ablation.PLACES}
    small = [c.recipe for key, c in ALL.items() if key.startswith("small")]
    assert {recipe.norm for recipe in small} == set(ablation.NORMS)
    assert {(recipe.batch_size, recipe.epochs) for recipe in small} == {(3, base.epochs // 3)}


# --- data --------------------------------------------------------------------------------------------------


def test_what_is_set_aside_is_a_third_of_each_class_and_not_learned_from(corpus):
    aside = set_aside(corpus)
    before, learned, held_out = (
        torch.bincount(part.labels, minlength=9) for part in (corpus.train, aside.train, aside.test)
    )
    assert torch.equal(learned + held_out, before) and torch.equal(held_out, before // 3)
    kept = {tuple(x[0].tolist()) for x in aside.train.x}
    assert kept.isdisjoint({tuple(x[0].tolist()) for x in aside.test.x})
    assert kept.isdisjoint({tuple(x[0].tolist()) for x in corpus.test.x})


def real_steps(part):
    return torch.cat([x[:length] for x, length in zip(part.x, part.lengths.tolist(), strict=True)])


def test_inputs_are_scaled_by_the_training_series_alone(corpus):
    learned, tested = inputs_for(Recipe(), corpus)
    steps = real_steps(learned)
    torch.testing.assert_close(steps.mean(0), torch.zeros(12), rtol=0, atol=1e-4)
    torch.testing.assert_close(steps.std(0), torch.ones(12), rtol=0, atol=1e-4)
    louder = corpus.test._replace(x=100 * corpus.test.x)
    again, _ = inputs_for(Recipe(), replace(corpus, test=louder))
    assert torch.equal(again.x, learned.x)
    assert (real_steps(tested).mean(0).abs() > 1e-3).any()


def test_changed_inputs_are_what_their_names_say(corpus):
    learned, tested = inputs_for(Recipe(), corpus)
    for key, part in (("inputs/times 10", 0), ("inputs/times 10", 1)):
        found = inputs_for(ALL[key].recipe, corpus)[part]
        torch.testing.assert_close(found.x, 10 * (learned, tested)[part].x)
    broken, _ = inputs_for(ALL["inputs/one feature times 1000"].recipe, corpus)
    factors = real_steps(broken).std(0)
    assert factors[BROKEN] == pytest.approx(1000, rel=1e-3)
    assert torch.allclose(factors[[i for i in range(12) if i != BROKEN]], torch.ones(11), atol=1e-3)
    plain, _ = inputs_for(ALL["inputs/as they come"].recipe, corpus)
    assert torch.equal(plain.x, corpus.train.x)
    cut, _ = inputs_for(ALL["length/RNN cut"].recipe, corpus)
    assert cut.x.shape[1] == SHORT and cut.lengths.max() == SHORT
    assert torch.equal(cut.lengths, corpus.train.lengths.clamp(max=SHORT))


# --- the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ALL)
def test_padding_does_not_matter(key):
    recipe = replace(ALL[key].recipe, hidden_size=4)
    torch.manual_seed(0)
    model = Speaker(recipe, 5, 3).eval()
    x, lengths = torch.randn(4, 6, 5), torch.tensor([6, 2, 4, 1])
    padded = torch.cat([x, 1000 * torch.ones(4, 3, 5)], dim=1)
    torch.testing.assert_close(model(x, lengths), model(padded, lengths))


def test_batch_normalisation_of_inputs_counts_real_steps_only():
    torch.manual_seed(0)
    model = Speaker(Recipe(norm="batch", place="inputs", hidden_size=4), 5, 3).train()
    x, lengths = torch.randn(4, 6, 5), torch.tensor([6, 2, 4, 1])
    before = model.norm.running_mean.clone()
    model(x, lengths)
    moved = model.norm.running_mean - before
    expected = model.projection(real_steps(ablation.Part(x, lengths, lengths))).mean(0)
    torch.testing.assert_close(moved, 0.1 * expected)  # torch's momentum


def test_a_recipe_becomes_the_model_that_it_names():
    stacked = Speaker(Recipe(layers=2, between=0.5, hidden_size=4), 5, 3)
    assert stacked.recurrent.num_layers == 2 and stacked.recurrent.dropout == 0.5
    assert type(Speaker(Recipe(layer="RNN"), 5, 3).recurrent).__name__ == "RNN"
    kinds = {norm: type(ablation.make_norm(norm, 4)) for norm in ablation.NORMS}
    assert kinds == {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
    with pytest.raises(ValueError, match="one of none, layer, batch, got 'group'"):
        ablation.make_norm("group", 4)


def test_training_learns_and_repeats_with_the_seed(corpus):
    recipe = Recipe(hidden_size=16, epochs=6)
    learned, tested = inputs_for(recipe, corpus)
    first, again, other = (train(recipe, learned, 9, seed, "cpu") for seed in (0, 0, 1))
    assert accuracy(first, tested) > 0.5  # guessing: 1/9
    weights = [model.head.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not first.training


def test_torchs_own_generator_stays_as_it_was(corpus):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    ablation.measure(Recipe(hidden_size=4, epochs=1), corpus, 0, "cpu")
    assert torch.equal(torch.get_rng_state(), state)


# --- the benchmark -----------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch, corpus) -> ablation.Plan:
    monkeypatch.setattr(ablation, "load_japanese_vowels", lambda: load_japanese_vowels(generated=True))
    return ablation.PLANS["smoke"]


def test_the_smoke_profile_gives_every_claim_what_its_rule_needs(small, tmp_path):
    found = ablation.BENCHMARK.run("smoke", None, "cpu", False, tmp_path)
    assert {claim for record in found for claim in record.claims} == {"M05", "A03", "A04"}
    for claim in ("M05", "A04"):
        assert verdict(claim, found).status != "not testable"
    assert "loss spikes" in verdict("A03", found).reason  # those are the mechanisms' records
    assert len({record.name for record in found}) == len(found) == len(ALL)
    assert all(record.n == 3 and record.source["generated"] for record in found)


def test_an_interrupted_run_resumes_and_repeats_nothing(small, tmp_path, monkeypatch):
    measured = []

    def measure(recipe, *_):
        if len(measured) == 5:
            measured.append(None)
            raise KeyboardInterrupt
        measured.append(recipe)
        return {"accuracy": 0.5, "seconds": 1.0}

    monkeypatch.setattr(ablation, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        ablation.run_plan(small, 2, "cpu", True, tmp_path / "work.jsonl")
    found = ablation.run_plan(small, 2, "cpu", True, tmp_path / "work.jsonl")
    assert len(measured) == 2 * len(ALL) + 1
    assert {record.n for record in found} == {2} and {record.duration_s for record in found} == {2.0}
    ablation.run_plan(small, 3, "cpu", True, tmp_path / "work.jsonl")
    assert len(measured) == 3 * len(ALL) + 1  # another seed needs one more run of each
