"""Translators trained and measured: texts, recipes, BLEU, and the benchmark on a tiny plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seqcourse import records
from seqcourse.benchmarks import translation
from seqcourse.claims import verdict
from seqcourse.data.generated import toy_translation
from seqcourse.models.decoding import beam_search
from seqcourse.translating import (
    GRU,
    GRU_ATTENTION,
    MODELS,
    TRANSFORMER,
    Recipe,
    bleu,
    make_corpus,
    make_translator,
    paired_bootstrap,
    parameter_count,
    prepare,
    token_loss,
    train_translator,
    translate,
)

TINY = Recipe(GRU, size=8, embedding_size=8, heads=2, inner_size=16, epochs=1, max_tokens=200)


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(toy_translation(300), 300, pairs=60)


# --- text


def test_texts_are_lower_case_and_words_are_spelt_alike_everywhere():
    assert prepare("Der Hund") == " der hund"
    german = make_corpus(toy_translation(60), 400).source_tokeniser
    alone, later = german.encode(prepare("Hund")), german.encode(prepare("der Hund"))
    assert later[-len(alone) :] == alone and len(later) > len(alone)


def test_a_corpus_has_the_pairs_asked_for_and_learns_from_training_pairs_only():
    text = toy_translation(300)
    whole, part = make_corpus(text, 300), make_corpus(text, 300, pairs=50)
    assert (len(whole.train), len(part.train), len(part.validation)) == (len(text.train), 50, 5)
    source, target = part.train[0]
    assert part.source_tokeniser.decode(source) == prepare(text.train[0][0])
    assert part.target_tokeniser.decode(target) == prepare(text.train[0][1]) and target[0] == 2
    other = replace(text, validation=[("xyz", "xyz")] * 200, test=[])
    assert make_corpus(other, 300).target_tokeniser.encode("xyz") == whole.target_tokeniser.encode("xyz")


def test_longest_leaves_out_pairs_by_their_longer_side():
    text = replace(toy_translation(60), train=[("a b", "a b c"), ("a", "b"), ("a b c", "a")])
    assert len(make_corpus(text, 300, longest=20).train) == 3
    assert len(make_corpus(replace(text, validation=[("a", "b")]), 300, longest=2).train) == 1
    with pytest.raises(ValueError, match="at most 0 words; got 0 and 0"):
        make_corpus(text, 300, longest=0)


# --- recipes and training


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_translator(model, corpus):
    recipe = replace(TINY, model=model)
    first, again, other = (make_translator(recipe, 300, 290, seed) for seed in (1, 1, 2))
    states = [translator.state_dict() for translator in (first, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert (first.source_vocabulary_size, first.target_vocabulary_size) == (300, 290)
    assert first.attends == (model != GRU) and first.label_smoothing == recipe.label_smoothing


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match=r"expected a model out of GRU, .*, got 'Elman'"):
        make_translator(replace(TINY, model="Elman"), 300, 300, 0)


def test_training_keeps_the_weights_of_the_best_validation(corpus):
    recipe = replace(TINY, epochs=3, learning_rate=0.01)
    model, history = train_translator(recipe, corpus)
    losses = history.metric("loss")
    assert len(losses) == 3 and history.best["loss"] == min(losses) < losses[0]
    assert token_loss(model, corpus.validation) == pytest.approx(min(losses), rel=1e-6)
    untrained = make_translator(recipe, len(corpus.source_tokeniser), len(corpus.target_tokeniser), 0)
    assert token_loss(untrained, corpus.validation) > losses[0]


def test_a_stopped_training_goes_on(corpus, tmp_path, monkeypatch):
    """Killed in the second epoch and started again, it ends with the weights of an uninterrupted run."""
    recipe = replace(TINY, model=TRANSFORMER, epochs=2)
    whole, _ = train_translator(recipe, corpus)
    validated = []

    def killed(*args):
        validated.append(args)
        if len(validated) == 2:
            raise KeyboardInterrupt
        return token_loss(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("seqcourse.translating.token_loss", killed)
        train_translator(recipe, corpus, checkpoint=tmp_path / "x.pt")
    resumed, history = train_translator(recipe, corpus, checkpoint=tmp_path / "x.pt")
    assert len(history.metric("loss")) == 2
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_token_loss_weighs_tokens_not_batches(corpus):
    """Over pairs in batches it is the same as over all tokens of one batch."""
    model = make_translator(TINY, len(corpus.source_tokeniser), len(corpus.target_tokeniser), 0).eval()
    one_by_one = [(token_loss(model, [pair]), len(pair[1]) - 1) for pair in corpus.validation]
    expected = sum(loss * n for loss, n in one_by_one) / sum(n for _, n in one_by_one)
    assert token_loss(model, corpus.validation) == pytest.approx(expected, rel=1e-5)


# --- translating and BLEU


def test_translations_come_back_in_the_order_of_the_sentences(corpus):
    model = make_translator(TINY, len(corpus.source_tokeniser), len(corpus.target_tokeniser), 0)
    tokenisers = corpus.source_tokeniser, corpus.target_tokeniser
    sentences = [source for source, _ in corpus.text.test[:7]]
    together = translate(model, sentences, *tokenisers, batch_size=3)
    assert together == [translate(model, [sentence], *tokenisers)[0] for sentence in sentences]
    assert len(set(together)) > 1
    assert translate(model, [], *tokenisers) == []


def test_the_decoder_can_be_chosen(corpus):
    model = make_translator(TINY, len(corpus.source_tokeniser), len(corpus.target_tokeniser), 0)
    asked = []

    def decode(model, source, lengths):
        asked.append(len(source))
        return beam_search(model, source, lengths, max_length=4)

    translate(model, ["eins", "zwei", "drei"], corpus.source_tokeniser, corpus.target_tokeniser, decode, 2)
    assert asked == [2, 1]


def test_bleu_ignores_case_and_says_how_it_was_computed():
    references = ["The black dog runs over the green grass.", "A man sleeps on a bench in the park."]
    perfect = bleu([reference.lower() for reference in references], references)
    assert perfect.score == pytest.approx(100)
    assert (
        "case:lc" in perfect.signature and "tok:13a" in perfect.signature and "version:" in perfect.signature
    )
    assert 0 < bleu(["the black dog walks over the green grass.", "a man."], references).score < 60


def test_a_paired_bootstrap_tells_good_from_bad_and_not_equal_from_equal():
    references = [f"the man number {i} reads a book in house {i}." for i in range(60)]
    bad = ["the man reads." for _ in references]
    mixed = [bad[i] if i % 2 else references[i] for i in range(60)]
    other = [references[i] if i % 2 else bad[i] for i in range(60)]
    assert paired_bootstrap(references, bad, references) < 0.01
    assert paired_bootstrap(mixed, other, references) > 0.2
    assert paired_bootstrap(mixed, other, references) == paired_bootstrap(mixed, other, references)


def test_bleu_needs_a_reference_for_each():
    for translations, references in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="one reference per translation"):
            bleu(translations, references)


# --- the benchmark


def test_groups_of_length_touch_and_do_not_overlap():
    groups = [translation.length_group(words, (8, 12, 15)) for words in range(1, 18)]
    assert groups == ["1 to 8"] * 8 + ["9 to 12"] * 4 + ["13 to 15"] * 3 + ["over 15"] * 2


def test_bleu_by_length_scores_each_group_by_itself():
    short, long = "ein hund schläft heute", "ein hund schläft heute " * 3
    test = [(short, "a dog sleeps today"), (long, "a dog sleeps today here"), (short, "the man runs there")]
    found = translation.bleu_by_length(test, ["a dog sleeps today", "x", "the man runs there"], (8, 10))
    assert found["1 to 8"] == {"BLEU": pytest.approx(100), "sentences": 2}
    assert found["over 10"]["BLEU"] < 1 and found["over 10"]["sentences"] == 1
    assert "9 to 10" not in found


def smoke(**changes) -> translation.Plan:
    return replace(translation.PLANS["smoke"], pairs=40, test_pairs=6, **changes)


def test_the_benchmark_measures_all_models_and_resumes(tmp_path, monkeypatch):
    path, measure, measured = tmp_path / "translation.jsonl", translation.measure, []

    def interrupted(piece, *rest):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(piece.model)
        return measure(piece, *rest)

    monkeypatch.setattr(translation, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        translation.run_plan(smoke(), 1, "cpu", True, path)
    monkeypatch.setattr(
        translation, "measure", lambda piece, *rest: (measured.append(piece.model), measure(piece, *rest))[1]
    )
    found = translation.run_plan(smoke(), 1, "cpu", True, path)
    assert measured == [*MODELS, TRANSFORMER]  # the last from English to German
    back = records.find(found, direction="en-de")
    assert {r.protocol["model"] for r in back} == {TRANSFORMER}
    assert {r.metric for r in back} >= {"BLEU", "BLEU by source length", "validation loss"}
    assert not records.find(back, metric="p-value of the difference in BLEU")
    assert len({record.name for record in found}) == len(found) and all(r.generated for r in found)
    for model in MODELS:
        own = records.find(found, model=model, direction="de-en")
        assert {r.metric for r in own} >= {"BLEU", "parameters", "validation loss", "training speed"}
        assert {r.protocol["decoding"] for r in records.find(own, metric="BLEU")} == {"greedy", "beam 4"}
        assert all("case:lc" in r.protocol["signature"] and "lower case" in r.protocol["text"] for r in own)
        compared = records.find(own, metric="p-value of the difference in BLEU")
        assert len(compared) == (0 if model == GRU else 2)
        assert all(0 < value <= 1 for record in compared for value in record.values)
        (speed,) = records.find(own, metric="training speed")
        assert speed.n == 2 and all(value > 0 for value in speed.values) and not speed.claims


def test_records_of_a_profile_with_long_sentences_are_what_the_rules_need(tmp_path):
    """With groups as the laptop has them, and sentences of every length, no rule lacks a record."""
    plan = smoke(bounds=(8, 12, 15), recipes=[replace(TINY, model=model) for model in MODELS])
    corpus = make_corpus(toy_translation(300), 300, pairs=40)
    sentences = [("wort " * words, "a word of the test") for words in (5, 10, 14, 17)]
    corpus = replace(corpus, text=replace(corpus.text, test=sentences))
    finished = translation.FinishedWork(tmp_path / "x.jsonl", {})
    for model in MODELS:
        piece = translation.Piece("de-en", model, 0)
        result = translation.measure(piece, plan, corpus, "cpu", tmp_path / f"{model}.pt")
        finished.add(piece.key, {**result, "parameters": 1000})
    finished.add("de-en speed", translation.training_speed(plan, corpus, "cpu"))
    found = translation._records("de-en", 1, plan, finished, corpus.text, "cpu")
    for claim in translation.CLAIMS.split():
        assert verdict(claim, found).status in ("confirmed", "qualified", "refuted")


@pytest.mark.parametrize("profile", ["laptop", "full"])
def test_models_of_a_profile_are_of_equal_size(profile):
    plan = translation.PLANS[profile]
    V = plan.vocabulary_size
    sizes = [parameter_count(make_translator(recipe, V, V, 0)) for recipe in plan.recipes]
    assert [recipe.model for recipe in plan.recipes] == [GRU, GRU_ATTENTION, TRANSFORMER]
    assert max(sizes) <= 1.05 * min(sizes)
