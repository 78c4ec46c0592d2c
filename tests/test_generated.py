"""Generated stand-ins: labelled, repeatable, and with the structure that makes them worth learning from."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta

import numpy as np
import pytest
import torch

from seqcourse.data import generated, types
from seqcourse.data.generated import reviews as reviews_function
from seqcourse.data.generated.common import expand, fingerprint, split
from seqcourse.data.generated.reviews import NEGATIVE, POSITIVE
from seqcourse.data.generated.translation import (
    ADJECTIVES,
    FRAMES,
    PEOPLE,
    THINGS,
    TIMES,
    VERBS,
    Clause,
    Phrase,
)
from seqcourse.data.generated.verse import LINES, SPEAKERS, WORDS

# Generator -> (what it returns, a small size, a size that is too small).
GENERATORS = {
    "reviews": (types.Reviews, 20, 3),
    "verse": (types.TextCorpus, 60, 19),
    "encyclopedia": (types.TextCorpus, 20, 9),
    "prices": (types.PriceSeries, 30, 1),
    "tagged_sentences": (types.TaggedText, 20, 9),
    "toy_translation": (types.ParallelText, 20, 9),
    "moving_shapes": (types.MovingFrames, 3, 0),
    "digit_images": (types.DigitImages, 12, 0),
    "spoken_digits": (types.SpokenDigits, 2, 1),
    "patients": (types.Patients, 12, 9),
    "sensor_streams": (types.Streams, 2, 0),
    "vowel_series": (types.SeriesClassification, 30, 17),
    "summaries": (types.Summaries, 12, 9),
    "dialogues": (types.Dialogues, 12, 9),
}
every_generator = pytest.mark.parametrize("name", GENERATORS)


def content(data: object) -> str:
    return fingerprint({name: value for name, value in vars(data).items() if name != "source"})


def nearest_centroid_accuracy(train: list, test: list) -> float:
    """How often the class whose mean features are nearest is right; pairs (features, label)."""
    by_class = defaultdict(list)
    for features, label in train:
        by_class[label].append(features)
    labels = sorted(by_class)
    centroids = torch.stack([torch.stack(by_class[label]).mean(0) for label in labels])
    guesses = [labels[int((centroids - features).norm(dim=1).argmin())] for features, _ in test]
    return sum(guess == label for guess, (_, label) in zip(guesses, test, strict=True)) / len(test)


# --- what holds for all


def test_the_list_above_is_complete():
    assert set(generated.__all__) == {*GENERATORS, "bounce"}


@every_generator
def test_it_says_that_it_is_generated(name):
    kind, size, _ = GENERATORS[name]
    data = getattr(generated, name)(size, seed=5)
    assert type(data) is kind
    assert data.source.generated is True
    assert data.source.name.startswith("generated ") and "GENERATED" in data.source.headline
    assert "seed 5" in data.source.note
    assert re.fullmatch("[0-9a-f]{64}", data.source.sha256)


@every_generator
def test_the_seed_decides_the_content_and_the_digest(name):
    generate, size = getattr(generated, name), GENERATORS[name][1]
    first, again, other = generate(size, seed=1), generate(size, seed=1), generate(size, seed=2)
    assert content(first) == content(again) and first.source == again.source
    assert content(first) != content(other) and first.source.sha256 != other.source.sha256


@every_generator
def test_no_global_generator_is_read_or_moved(name):
    generate, size = getattr(generated, name), GENERATORS[name][1]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = generate(size)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    assert content(generate(size)) == content(first)


@every_generator
def test_too_small_a_size_is_refused(name):
    too_small = GENERATORS[name][2]
    with pytest.raises(ValueError, match=rf"must be at least \d+, got {too_small}"):
        getattr(generated, name)(too_small)


@every_generator
def test_the_default_size_is_made_quickly(name):
    begin = time.process_time()
    getattr(generated, name)()
    assert time.process_time() - begin < 3  # a second at most on a free core


def test_expand_and_split():
    rules = {"a": ["<{b}>"], "b": ["x"]}
    assert expand(rules, "{a}{b}!", random.Random(0)) == "<x>x!"
    assert split(list(range(10)), [0.5, 0.2]) == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]


def test_the_fingerprint_tells_contents_apart():
    different = [
        ["ab", "c"], ["a", "bc"], ["abc"], [["ab"], "c"], [1], ["1"], [1.0], {"a": 1}, {"a": 2}, [None],
        torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(2, 3).double(),
    ]  # fmt: skip
    assert len({fingerprint(item) for item in different}) == len(different)
    assert fingerprint(torch.arange(6).view(2, 3).T) == fingerprint(torch.arange(6).view(2, 3).T.contiguous())


# --- reviews


def read_in_order(text: str) -> int:
    """The rule: the verdict's adjective, turned round if its own sentence begins with a negation."""
    votes = []
    for sentence in text.split("."):
        words = re.findall(r"\w+", sentence)
        if words and words[-1] in POSITIVE + NEGATIVE:
            votes.append((words[-1] in POSITIVE) != bool({"not", "never"} & set(words)))
    assert len(set(votes)) == 1
    return int(votes[0])


def bag_of_words_accuracy(data: types.Reviews) -> float:
    """Fit a logistic model on word counts by LBFGS, with a little weight decay; return its test accuracy."""
    bags = {text: Counter(re.findall(r"\w+", text.lower())) for text, _ in data.train + data.test}
    column = {word: i for i, word in enumerate(sorted(set().union(*bags.values())))}

    def tensors(part):
        counts = torch.zeros(len(part), len(column))
        for row, (text, _) in enumerate(part):
            for word, count in bags[text].items():
                counts[row, column[word]] = count
        return counts, torch.tensor([float(label) for _, label in part])

    (x, y), (x_test, y_test) = tensors(data.train), tensors(data.test)
    weight = torch.zeros(len(column) + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=30)

    def loss():
        optimiser.zero_grad()
        logits = x @ weight[1:] + weight[0]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, y) + 3e-3 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return (((x_test @ weight[1:] + weight[0]) > 0) == y_test.bool()).float().mean().item()


def test_the_order_tells_the_sentiment_of_every_review():
    data = generated.reviews(1000)
    assert all(read_in_order(text) == label for text, label in data.train + data.test)


def test_a_bag_of_words_fails_where_the_negation_decides():
    accuracy = bag_of_words_accuracy(generated.reviews())
    assert 0.55 < accuracy < 0.7  # its ceiling is 0.65, up to chance; the rule gets 1


def test_the_same_bag_of_words_succeeds_without_negation():
    assert bag_of_words_accuracy(generated.reviews(2000, negation=0)) > 0.97


def test_every_review_has_one_negation_wherever_it_stands():
    for text, _ in generated.reviews(500).train:
        assert len(re.findall(r"\b(not|never)\b", text)) == 1


def test_the_negation_stands_far_before_the_word_it_turns_round():
    distances = []
    for text, _ in generated.reviews(1000).train:
        for sentence in text.split("."):
            words = re.findall(r"\w+", sentence)
            negations = [i for i, word in enumerate(words) if word in ("not", "never")]
            if negations and words[-1] in POSITIVE + NEGATIVE:
                distances.append(len(words) - 1 - negations[0])
    assert 0.3 < len(distances) / 500 < 0.4
    assert min(distances) >= 7 and np.median(distances) > 15


def test_reviews_are_balanced_in_both_parts_and_distinct():
    data = generated.reviews(1000)
    assert len(data.train) == len(data.test) == 500
    assert sum(label for _, label in data.train) == sum(label for _, label in data.test) == 250
    assert len({text for text, _ in data.train + data.test}) > 990


def test_several_verdicts_agree():
    data = generated.reviews(60, verdicts=3)
    assert all(read_in_order(text) == label for text, label in data.train)
    assert all(len(re.findall(r"\b(not|never)\b", text)) == 3 for text, _ in data.train)


def test_reviews_refuse_shares_outside_zero_and_one():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        reviews_function(10, negation=1.5)


# --- verse


def test_every_line_pattern_has_ten_syllables():
    for pattern in LINES:
        syllables = [
            int(word[1]) if re.match(r"[NAVR]\d", word) else 1 for word in re.findall(r"\w+", pattern)
        ]
        assert sum(syllables) == 10, pattern


def test_word_lists_have_no_word_twice():
    for words in WORDS.values():
        assert len(words) == len(set(words))


def test_verse_is_laid_out_as_speeches():
    data = generated.verse(500)
    text = data.train + data.validation
    speeches = text.rstrip("\n").split("\n\n")
    names = []
    for speech in speeches:
        name, *lines = speech.strip("\n").split("\n")
        names.append(name)
        assert name[-1] == ":" and name[:-1] in SPEAKERS
        assert 1 <= len(lines) <= 7 and lines[-1][-1] in ".!?"
        assert all(re.fullmatch(r"[A-Z][A-Za-z ,]*[.,;:!?]?", line) for line in lines)
    assert all(first != second for first, second in itertools.pairwise(names))
    assert sum(speech.strip("\n").count("\n") for speech in speeches) == 500


def test_plays_make_up_the_text_and_the_parts():
    data = generated.verse(2000)
    assert len(data.plays) == 3
    assert "\n".join(data.plays.values()) == data.train + data.validation
    assert 0.1 < len(data.validation) / len(data.train) < 0.13
    assert data.validation.split(":")[0] in SPEAKERS


def test_verse_has_enough_words():
    assert len(set(re.findall(r"[a-z]+", generated.verse().train.lower()))) > 350


# --- encyclopedia


def test_unseen_words_are_unknown_in_validation_and_test():
    data = generated.encyclopedia()
    known = set(data.train.split())
    assert "<unk>" not in known
    for part in (data.validation, data.test):
        assert set(part.split()) - known == {"<unk>"}


def test_articles_have_titles_that_begin_their_text():
    data = generated.encyclopedia(60)
    articles = re.findall(r"^ = (\w+) = \n\n (\w+) ", data.train, re.MULTILINE)
    assert len(articles) == 48
    assert all(title == first for title, first in articles)


# --- prices


def test_trading_days_are_weekdays_in_order_without_holidays():
    data = generated.prices(600)
    days = [date.fromisoformat(day) for day in data.dates]
    assert days == sorted(set(days)) and days[0] == date(2000, 1, 3)
    assert all(day.weekday() < 5 for day in days)
    assert not {"07-04", "12-25", "01-01"} & {day[5:] for day in data.dates}
    gaps = Counter((b - a).days for a, b in itertools.pairwise(days))
    assert max(gaps) <= 4 and gaps[1] > gaps[3]


def test_prices_are_consistent():
    data = generated.prices(600)
    for column in (data.close, data.high, data.low, data.volume):
        assert column.shape == (600,) and column.dtype == torch.float64 and (column > 0).all()
    assert (data.low <= data.close).all() and (data.close <= data.high).all()


def autocorrelation(x: torch.Tensor, lag: int) -> float:
    x = x - x.mean()
    return float((x[:-lag] * x[lag:]).sum() / x.square().sum())


@pytest.mark.parametrize("seed", [0, 1])
def test_returns_have_heavy_tails_and_clustered_volatility_but_no_memory(seed):
    returns = generated.prices(5000, seed).close.log().diff()
    scaled = (returns - returns.mean()) / returns.std()
    assert scaled.pow(4).mean() > 5  # 3 for a normal distribution
    assert all(autocorrelation(returns.abs(), lag) > 0.1 for lag in (1, 5, 10))
    assert all(abs(autocorrelation(returns, lag)) < 0.08 for lag in (1, 5, 10))


# --- tagged sentences


def entities(sentences: list) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for tokens, tags in sentences:
        for token, tag in zip(tokens, tags, strict=True):
            if tag.startswith("B-"):
                found.append((token, tag[2:]))
            elif tag.startswith("I-"):
                found[-1] = (f"{found[-1][0]} {token}", found[-1][1])
    return found


def test_tags_are_valid_iob2():
    data = generated.tagged_sentences()
    assert data.tags == ["O", "B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER"]
    assert data.tags is data.tags  # collected once: a corpus has tens of thousands of sentences
    for _, tags in data.train + data.validation + data.test:
        for before, tag in itertools.pairwise(["O", *tags]):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_many_test_entities_are_new_and_many_words_need_context():
    data = generated.tagged_sentences()
    known = set(entities(data.train))
    unseen = [entity for entity in entities(data.test) if entity not in known]
    assert 0.2 < len(unseen) / len(entities(data.test)) < 0.95
    kinds = defaultdict(set)
    for name, kind in known:
        kinds[name].add(kind)
    assert sum(len(kind) == 3 for kind in kinds.values()) > 20


# --- translation

woman, man, girl = (next(n for n in PEOPLE if n.en == word) for word in ("woman", "man", "girl"))
dog, book, house = (next(n for n in THINGS if n.en == word) for word in ("dog", "book", "house"))
red, white = (next(a for a in ADJECTIVES if a.en == word) for word in ("red", "white"))
sees, finds = (next(v for v in VERBS if v.en == word) for word in ("sees", "finds"))


@pytest.mark.parametrize(
    ("clause", "english", "german", "french"),
    [
        (
            Clause(Phrase(woman, None, True), sees, Phrase(dog, red, True), "present", None, None),
            "the woman sees the red dog",
            "die Frau sieht den roten Hund",
            "la femme voit le chien rouge",
        ),
        (
            Clause(Phrase(man, white, False), finds, Phrase(house, white, False), "perfect", None, None),
            "a white man has found a white house",
            "ein weißer Mann hat ein weißes Haus gefunden",
            "un garçon blanc a trouvé une maison blanche",
        ),
        (
            Clause(Phrase(girl, red, True), sees, Phrase(book, None, False), "perfect", 1, None),
            "I think that the red girl has seen a book",
            "ich denke, dass das rote Mädchen ein Buch gesehen hat",
            "je pense que la fille rouge a vu un livre",
        ),
        (
            Clause(Phrase(man, None, False), finds, Phrase(dog, None, True), "negated", 0, None),
            "we know that a man does not find the dog",
            "wir wissen, dass ein Mann den Hund nicht findet",
            "nous savons qu'un garçon ne trouve pas le chien",
        ),
        (
            Clause(Phrase(man, None, True), sees, Phrase(dog, white, False), "present", None, 0),
            "today the man sees a white dog",
            "heute sieht der Mann einen weißen Hund",
            "aujourd'hui, le garçon voit un chien blanc",
        ),
    ],
)  # fmt: skip
def test_one_clause_in_three_languages(clause, english, german, french):
    assert (clause.english(), clause.german(), clause.french()) == (english, german, french)


def test_german_verbs_stand_last_after_dass_and_second_otherwise():
    finite = {verb.de for verb in VERBS} | {"hat"}
    times = sorted((time for _, time, _ in TIMES), key=len, reverse=True)  # "heute Abend" first
    seen = Counter()
    for german, english in generated.toy_translation(600).train:
        words = german.rstrip(".").split()
        if "dass" in words:
            assert words[-1] in finite and english.rstrip(".").split()[-1] not in {verb.en for verb in VERBS}
            seen["last"] += 1
        elif time := next((time for time in times if german.lower().startswith(time.lower() + " ")), ""):
            assert words[len(time.split())] in finite
            seen["second"] += 1
        else:
            assert words[2] in finite or words[3] in finite  # after article (adjective) noun
    assert seen["last"] > 150 and seen["second"] > 80


def test_no_pair_is_in_two_parts_and_languages_are_as_asked():
    data = generated.toy_translation(1000, languages=("en", "fr"))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [800, 100, 100]
    assert len({english for english, _ in data.train + data.validation + data.test}) == 1000
    assert data.languages == ("en", "fr")
    german = generated.toy_translation(1000, languages=("en", "de"))
    assert [pair[0] for pair in data.train] == [pair[0] for pair in german.train]
    assert not any("que un" in french for _, french in data.train)
    assert any("qu'un" in french for _, french in data.train)


def test_every_frame_has_a_subordinate_clause_in_each_language():
    assert all(len(frame) == 3 for frame in FRAMES)
    pairs = generated.toy_translation(300, languages=("de", "fr")).train
    assert all(("dass" in german) == bool(re.search(r"\bqu[e']", french)) for german, french in pairs)


@pytest.mark.parametrize("languages", [("de", "de"), ("de", "la"), ("de", "en", "fr"), ("en",)])
def test_unknown_languages_are_refused(languages):
    with pytest.raises(ValueError, match="languages must be two of"):
        generated.toy_translation(20, languages=languages)


def test_more_pairs_than_the_grammar_varies_are_refused():
    with pytest.raises(ValueError, match="at most 100000, got 100001"):
        generated.toy_translation(100_001)


# --- pictures


def test_films_have_the_shape_and_range_that_was_asked():
    films = generated.moving_shapes(3, frames=5, size=20, shapes=1).frames
    assert films.shape == (3, 5, 1, 20, 20) and films.dtype == torch.float32
    assert films.min() == 0 and films.max() == 1


def test_a_single_shape_keeps_its_form_and_moves_straight_until_a_wall():
    sprite = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0)) / 2 + 0.5
    films = generated.bounce(sprite, 30, 40, 16, per_film=1, generator=np.random.default_rng(0))
    torch.testing.assert_close(films.sum((2, 3, 4)), sprite.sum().expand(30, 40))
    bounced = 0
    for film in films:
        corner = torch.stack([frame[0].nonzero().amin(0) for frame in film]).float()  # (T, 2): row, column
        low, high = torch.zeros(2), torch.tensor([12.0, 13.0])
        assert (corner >= low).all() and (corner <= high).all()
        turn = corner.diff(dim=0).sign()
        for place, direction in zip(corner[1:-1].T, (turn[:-1] * turn[1:] < 0).T, strict=True):
            bounced += int(direction.sum())
            edge = 12 if place is corner[1:-1].T[0] else 13
            assert ((place <= 2) | (place >= edge - 3))[direction].all()  # it turns at walls only
    assert bounced > 30


def test_sprites_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="28 x 28 have no room"):
        generated.bounce(torch.ones(1, 28, 28), 1, 2, 28, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="size must be at least 12"):
        generated.moving_shapes(1, size=8)


def test_digit_images_look_like_their_labels():
    data = generated.digit_images(600)
    assert data.images.shape == (600, 28, 28) and data.images.dtype == torch.uint8
    assert data.labels.bincount().tolist() == [60] * 10
    assert data.images.max() > 200 and data.images[:, 0].max() < 60  # ink inside, background at the border
    pairs = list(zip(data.images.float(), data.labels.tolist(), strict=True))
    flat = [(image.flatten(), label) for image, label in pairs]
    assert nearest_centroid_accuracy(flat[:400], flat[400:]) > 0.8


# --- speech


def spectrum(wave: torch.Tensor) -> torch.Tensor:
    """Log energy of 16 bands in three thirds of the recording."""
    thirds = [part.view(-1) for part in wave[: len(wave) // 3 * 3].view(3, -1)]
    power = [torch.fft.rfft(part, n=2048).abs().square()[1:1025].view(16, 64).mean(1) for part in thirds]
    return torch.stack(power).log().flatten()


def test_spoken_digits_are_told_apart_by_their_spectrum():
    data = generated.spoken_digits(4)
    assert data.sample_rate == 8000 and len(data.train) == 180 and len(data.test) == 60
    for wave, _ in data.train + data.test:
        assert 0.2 < len(wave) / 8000 < 0.7
        assert wave.dtype == torch.float32 and 0.3 < wave.abs().max() <= 1
    assert Counter(digit for _, digit in data.test) == {digit: 6 for digit in range(10)}
    train, test = ([(spectrum(wave), digit) for wave, digit in part] for part in (data.train, data.test))
    assert nearest_centroid_accuracy(train, test) > 0.8


# --- patients, streams, series


def test_stays_are_irregular_and_mostly_missing():
    data = generated.patients(100)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [60, 20, 20]
    for stay in data.train:
        assert (stay.minutes.diff() > 0).all() and stay.minutes[0] >= 0 and stay.minutes[-1] < 48 * 60
        assert (
            stay.values.shape == (len(stay.minutes), len(data.parameters))
            and stay.values.dtype == torch.float32
        )
        assert not stay.values.isnan().all(1).any()
    assert 0.3 < torch.cat([stay.values for stay in data.train]).isnan().float().mean() < 0.8
    assert len({stay.record_id for stay in data.train + data.validation + data.test}) == 100


def test_patients_who_die_got_worse_late_in_the_stay():
    data = generated.patients(800)
    stays = data.train + data.validation + data.test
    assert 0.05 < sum(stay.died for stay in stays) / len(stays) < 0.4
    rises = defaultdict(list)
    for stay in stays:
        early, late = stay.minutes < 960, stay.minutes > 1920
        rise = stay.values[late, 0].nanmean() - stay.values[early, 0].nanmean()  # heart rate
        if not rise.isnan():
            rises[stay.died].append(float(rise))
    assert np.mean(rises[1]) > np.mean(rises[0]) + 5


def test_streams_are_labelled_around_their_anomalies():
    for stream in generated.sensor_streams(4).series.values():
        stamps = [datetime.fromisoformat(stamp) for stamp in stream.timestamps]
        assert {b - a for a, b in itertools.pairwise(stamps)} == {timedelta(minutes=30)}
        assert len(stream.windows) == 3
        assert int(stream.anomalous.sum()) == 3 * 37 and not stream.anomalous[: len(stamps) // 4].any()
        jumps = stream.values.diff().abs()
        assert (jumps[~stream.anomalous[1:]] < 9).all()  # only noise and rhythm outside the windows
        assert (jumps[stream.anomalous[1:]] > 9).sum() >= 3  # into and out of the spike, into the shift
        assert (jumps[stream.anomalous[1:]] == 0).sum() == 23  # the sensor that stands still


def test_vowel_series_vary_in_length_and_tell_the_speaker():
    data = generated.vowel_series()
    lengths = [len(series) for series, _ in data.train + data.test]
    assert min(lengths) >= 7 and max(lengths) <= 29 and len(set(lengths)) > 15
    assert all(series.shape[1] == 12 and series.dtype == torch.float32 for series, _ in data.train)
    assert len(data.classes) == 9 and {label for _, label in data.test} == set(range(9))
    ends = [
        [(torch.cat([x[0], x[len(x) // 2], x[-1]]), y) for x, y in part] for part in (data.train, data.test)
    ]
    assert nearest_centroid_accuracy(*ends) > 0.8


# --- documents


def test_a_summary_joins_two_sentences_of_its_document():
    data = generated.summaries(100)
    places = Counter()
    for document, (summary,) in data.train:
        method, task, quality, percent = re.fullmatch(
            r"A (.+?) for (.+) improves (.+) by (\d+) percent\.", summary
        ).groups()
        places[document.index(f"We present a {method} for {task}.")] += 1
        assert f"On three public test sets it improves {quality} by {percent} percent." in document
    assert set(places) == {1, 2, 3}  # never first, and not always in one place


def test_dialogue_states_follow_what_the_user_says():
    data = generated.dialogues(60)
    changed = 0
    for dialogue in data.train + data.validation + data.test:
        assert [turn.speaker for turn in dialogue.turns] == ["USER", "SYSTEM"] * (
            len(dialogue.turns) // 2
        ) + ["USER"]
        states = [turn.state for turn in dialogue.turns if turn.speaker == "USER"]
        utterances = [turn.utterance.lower() for turn in dialogue.turns if turn.speaker == "USER"]
        for before, now, said in zip(states, states[1:], utterances[1:], strict=False):
            news = {slot: value for slot, value in now.items() if before.get(slot) != value}
            assert set(before) <= set(now) and all(value[0].lower() in said for value in news.values())
            changed += any(slot in before for slot in news)
        assert states[0] == {} and len(states[-1]) == 3
        assert all(slot.startswith(f"{dialogue.services[0]}/") for slot in states[-1])
    assert 10 < changed < 40


def test_dialogues_of_every_service_are_in_training():
    data = generated.dialogues()
    assert {service for dialogue in data.train for service in dialogue.services} == set(data.services)
