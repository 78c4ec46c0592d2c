"""The language-model benchmark: same tokens for every model, nothing averaged wrongly, resets paid honestly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from seqcourse.benchmarks import language
from seqcourse.benchmarks.language import (
    BANDS,
    MODELS,
    PLANS,
    REACH,
    RestartedStreams,
    Setting,
    after_reset,
    by_band,
    character_corpus,
    finished_work,
    make_model,
    nats_in_one_go,
    nats_in_windows,
    run_plan,
    same_setting,
    set_aside,
    surprise,
    word_corpus,
)
from seqcourse.claims import verdict
from seqcourse.metrics import perplexity
from seqcourse.models.language_model import NextTokenModel
from seqcourse.ngrams import KneserNey

V = 11
TINY = Setting(8, 2, batch_size=4, length=16)
PLAN = replace(PLANS["smoke"], settings=same_setting(TINY, TINY), vocabulary=60, most_tokens=300)


@pytest.fixture(autouse=True)
def without_real_data(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQCOURSE_OFFLINE", "1")
    monkeypatch.setenv("SEQCOURSE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("SEQCOURSE_MIRROR", raising=False)


def texts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(V, (length,), generator=generator) for length in lengths]


def model_of(name: str) -> NextTokenModel:
    torch.manual_seed(0)
    return make_model(name, V, TINY).double().eval()


# --- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corpus_of", [word_corpus, character_corpus])
def test_settings_are_compared_on_texts_that_are_neither_learned_nor_the_test(corpus_of):
    corpus = corpus_of(PLAN)
    aside = set_aside(corpus)
    assert aside.test is corpus.choices
    if corpus.level == "characters":  # the choices are the end of the training text
        assert torch.equal(torch.cat([*aside.train, *aside.test]), corpus.train[0])
    else:  # they are works of their own
        assert aside.train is corpus.train
        works = {tuple(text.tolist()) for text in aside.train}
        assert not any(tuple(text.tolist()) in works for text in [*aside.test, *corpus.test])


def test_whole_works_are_held_out_and_the_vocabulary_is_that_of_training():
    loaded = language.load_shakespeare()
    titles = list(loaded.plays)
    corpus = word_corpus(replace(PLAN, most_tokens=None))
    tokeniser = corpus.tokeniser
    assert len(tokeniser) == 60
    assert len(corpus.train) + len(corpus.choices) + len(corpus.test) == len(titles)
    expected = tokeniser.encode(loaded.plays[titles[4]], begin=True, end=True)
    assert corpus.test[0].tolist() == expected and titles[4] in corpus.split
    trained = " ".join(loaded.plays[title] for i, title in enumerate(titles) if i % 10 not in (3, 4)).lower()
    assert all(word in trained for word in tokeniser.tokens[4:])
    unknown = [token == tokeniser.unknown_id for token in expected[1:]]
    assert corpus.unknown_rate == pytest.approx(sum(unknown) / len(unknown)) and any(unknown)


def test_characters_are_split_at_nine_tenths_and_every_one_is_predicted():
    loaded, corpus = language.load_tinyshakespeare(), character_corpus(replace(PLAN, most_tokens=None))
    assert corpus.tokeniser.decode(corpus.test[0]) == loaded.validation
    assert len(corpus.test[0]) == len(loaded.validation) + 1
    assert corpus.tokeniser.decode(corpus.train[0]) == loaded.train
    assert loaded.train.endswith(corpus.tokeniser.decode(corpus.choices[0]))


def test_streams_are_cut_anew_in_each_epoch_and_restart():
    ids = torch.arange(101)
    streams = RestartedStreams(ids, batch_size=4, length=5, restart=2, seed=1)
    epochs = [list(streams.epoch(epoch)) for epoch in (0, 1, 0)]
    assert [batch.begins for batch in epochs[0]] == [True, False, True, False, True]
    assert len(epochs[0]) == len(streams)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(epochs[0], epochs[2], strict=True))
    assert not torch.equal(epochs[0][0].tokens, epochs[1][0].tokens)
    for batch in epochs[0]:  # the target follows the token, around the ring
        assert torch.equal((batch.tokens + 1) % 101, batch.targets)
    resumed = list(streams.epoch(0, start=3))
    assert [batch.begins for batch in resumed] == [False, True]
    assert torch.equal(resumed[0].tokens, epochs[0][3].tokens)
    other = next(iter(RestartedStreams(ids, 4, 5, 2, seed=2).epoch(0)))
    assert not torch.equal(other.tokens, epochs[0][0].tokens)


# --- measuring ---------------------------------------------------------------------------------------------


def nats_by_hand(model, context: torch.Tensor, target: int) -> float:
    with torch.no_grad():
        logits, _ = model(context[None])
    return -logits[0, -1].log_softmax(-1)[target].item()


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_the_state_is_carried_through_each_text_alone(name):
    model, read = model_of(name), texts(23, 9)
    nats = nats_in_one_go(model, read, chunk=4)
    assert [len(each) for each in nats] == [22, 8]
    for text, each in zip(read, nats, strict=True):
        expected = [nats_by_hand(model, text[:i], text[i]) for i in range(1, len(text))]
        assert each.tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("length", [6, 7])
def test_windows_give_each_token_half_a_window_before_it(length):
    model, half = model_of("Transformer"), length // 2
    for text in texts(30, 29, 28, length + 1, length, 2):
        (nats,) = nats_in_windows(model, [text], length)
        assert len(nats) == len(text) - 1
        for i in range(1, len(text)):  # token i is predicted from those since `begin`
            begin = max(0, -((length - i) // half)) * half if i > length else 0
            assert i - begin >= length - half + 1 or begin == 0
            assert nats[i - 1].item() == pytest.approx(nats_by_hand(model, text[begin:i], text[i]), abs=1e-10)


def test_a_reset_adds_what_a_fresh_state_costs():
    model, read = model_of("LSTM"), texts(3 * REACH + 5, REACH)  # the second has no window to reset in
    kept = nats_in_one_go(model, read)
    found = after_reset(model, read, kept)
    starts = (REACH, 2 * REACH)
    fresh = [nats_by_hand(model, read[0][s : s + 1], read[0][s + 1]) for s in starts]
    assert found["loss"]["1"] == pytest.approx(sum(fresh) / 2, abs=1e-10)
    added = [f - kept[0][s].item() for f, s in zip(fresh, starts, strict=True)]
    assert found["added"]["1"] == pytest.approx(sum(added) / 2, abs=1e-10)
    with pytest.raises(ValueError, match="at least 257 tokens"):
        after_reset(model, texts(REACH), nats_in_one_go(model, texts(REACH)))


def test_a_reset_costs_a_model_without_memory_nothing():
    model, read = model_of("RNN"), texts(4 * REACH)
    with torch.no_grad():
        for name, weight in model.recurrent.named_parameters():
            if "hh" in name and "weight" in name:
                weight.zero_()
    added = after_reset(model, read, nats_in_one_go(model, read))["added"]
    assert max(abs(value) for value in added.values()) < 1e-10


def test_bands_cover_the_reach_once():
    covered = [i for first, last in BANDS for i in range(first, last + 1)]
    assert covered == list(range(1, REACH + 1))
    assert by_band(torch.arange(1.0, REACH + 1))["3 to 4"] == 3.5


def test_surprise_is_total_nats_over_total_tokens_not_a_mean_of_means():
    corpus = word_corpus(PLAN)
    unknown = corpus.tokeniser.unknown_id
    corpus = replace(corpus, test=[torch.tensor([2, 7, unknown, 8, 9]), torch.tensor([2, 7])])
    found = surprise([torch.tensor([1.0, 5.0, 1.0, 1.0]), torch.tensor([3.0])], corpus)
    assert found["nats"] == 11 / 5 and found["nats of known"] == 6 / 4 and found["tokens"] == 5
    assert found["nats"] != (8 / 4 + 3 / 1) / 2


# --- runs and records --------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    return run_plan(PLAN, 2, "cpu", True, tmp_path / "runs" / "language.jsonl")


def test_a_tiny_run_says_everything_and_resumes(made, tmp_path, monkeypatch):
    by_name = {record.name: record for record in made}
    for level, metric in {"words": "perplexity", "characters": "loss per character"}.items():
        order = PLAN.orders[level]
        scores = [by_name[f"language/{level}/{model}/{metric}"] for model in (*MODELS, f"{order}-gram")]
        assert [record.n for record in scores] == [2, 2, 2, 2, 1]
        same = ("vocabulary", "test_tokens", "split", "unknown_rate", "training_tokens")
        assert len({tuple(record.protocol[key] for key in same) for record in scores}) == 1
    assert all(record.generated for record in made)
    nats, bits = (by_name[f"language/characters/GRU/{kind} per character"] for kind in ("loss", "bits"))
    assert bits.values[0] == pytest.approx(nats.values[0] / math.log(2))
    monkeypatch.setattr(language, "measure", lambda *_: pytest.fail("nothing is left to measure"))
    again = run_plan(PLAN, 2, "cpu", True, tmp_path / "runs" / "language.jsonl")
    assert [record.values for record in again] == [record.values for record in made]
    assert "LSTM" in verdict("N03", made).reason


def test_more_seeds_keep_the_models_trained_before_and_another_plan_does_not(made, tmp_path):
    path = tmp_path / "runs" / "language.jsonl"
    assert "words/LSTM/1" in finished_work(replace(PLAN, seeds=9), "cpu", True, path)
    other = replace(PLAN, settings=same_setting(replace(TINY, rate=1e-2), TINY))
    assert "words/LSTM/1" not in finished_work(other, "cpu", True, path)


def test_the_n_gram_of_the_record_is_that_of_the_module(made):
    corpus = word_corpus(PLAN)
    model = KneserNey([text[1:].tolist() for text in corpus.train], len(corpus.tokeniser))
    record = next(r for r in made if r.name == "language/words/5-gram/perplexity")
    assert record.values[0] == pytest.approx(model.perplexity([text[1:].tolist() for text in corpus.test]))


def test_every_profile_has_a_setting_for_every_model():
    for plan in PLANS.values():
        assert plan.settings.keys() == {f"{level}/{name}" for level in language.CORPORA for name in MODELS}


def test_training_lowers_the_loss_of_every_model():
    text = [torch.arange(400) % V]
    setting = Setting(16, 60, batch_size=4, length=16, rate=1e-2)
    for name in MODELS:
        model = language.train(name, V, text, setting, seed=0, device="cpu")
        loss = nats_in_windows(model, text, 16)[0].mean()
        assert perplexity(loss.item()) < 2, name
