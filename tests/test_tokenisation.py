"""Tokenisers: what goes in comes out, ids stay in range, files give the same tokeniser back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqcourse.data.tokenisation import (
    SPECIALS,
    CharTokeniser,
    SubwordTokeniser,
    Tokeniser,
    WordTokeniser,
    load_tokeniser,
    split_words,
)

TEXTS = [
    "The old ferry left the harbour at nine, and nobody waved.",
    "Don't wake the ferryman: the ferryman sleeps!",
    "Grüße aus Köln; naïve café owners sold 12 cakes.",
]
KINDS = [CharTokeniser, WordTokeniser, SubwordTokeniser]
any_text = st.text(max_size=60)
texts_to_learn = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5)
quick = settings(max_examples=60, deadline=None)

SUBWORDS = SubwordTokeniser.train(TEXTS, vocabulary_size=300)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
def tokeniser(request) -> Tokeniser:
    return request.param.train(TEXTS)


# --- what all three share


def test_special_ids_are_the_same_everywhere(tokeniser):
    assert (tokeniser.pad_id, tokeniser.unknown_id, tokeniser.begin_id, tokeniser.end_id) == (0, 1, 2, 3)
    assert tuple(tokeniser.token_of(i) for i in range(4)) == SPECIALS
    assert [tokeniser.id_of(token) for token in SPECIALS] == [0, 1, 2, 3]


def test_every_id_has_its_own_token_and_back(tokeniser):
    for i in tokeniser.encode(TEXTS[0]):
        assert tokeniser.id_of(tokeniser.token_of(i)) == i


def test_begin_and_end_frame_the_text_and_leave_no_trace_when_decoded(tokeniser):
    plain = tokeniser.encode(TEXTS[0])
    framed = tokeniser.encode(TEXTS[0], begin=True, end=True)
    assert framed == [tokeniser.begin_id, *plain, tokeniser.end_id]
    assert tokeniser.decode([*framed, tokeniser.pad_id, tokeniser.pad_id]) == tokeniser.decode(plain)


def test_decode_takes_a_tensor(tokeniser):
    ids = tokeniser.encode(TEXTS[0])
    assert tokeniser.decode(torch.tensor(ids)) == tokeniser.decode(ids)


def test_empty_text_gives_no_ids(tokeniser):
    assert tokeniser.encode("") == []
    assert tokeniser.decode([]) == ""


def test_special_tokens_cannot_be_forged_by_a_text(tokeniser):
    ids = tokeniser.encode("a <pad> b <bos> c <eos> d")
    assert not {tokeniser.pad_id, tokeniser.begin_id, tokeniser.end_id} & set(ids)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_training_twice_gives_the_same_ids_and_order_of_texts_does_not_matter(kind):
    first, again, reversed_ = kind.train(TEXTS), kind.train(TEXTS), kind.train(TEXTS[::-1])
    for text in TEXTS:
        assert first.encode(text) == again.encode(text) == reversed_.encode(text)


@quick
@given(texts_to_learn, any_text)
@example(["a"], "<pad><unk>")
def test_ids_are_always_inside_the_vocabulary(texts, text):
    for kind in (CharTokeniser, WordTokeniser):
        if kind is CharTokeniser or any(split_words(t.lower()) for t in texts):
            tokeniser = kind.train(texts)
            assert all(0 <= i < len(tokeniser) for i in tokeniser.encode(text, begin=True, end=True))
    assert all(3 < i < len(SUBWORDS) for i in SUBWORDS.encode(text))


# --- round trips


@quick
@given(texts_to_learn)
def test_characters_round_trip_on_what_they_were_trained_on(texts):
    tokeniser = CharTokeniser.train(texts)
    assert [tokeniser.decode(tokeniser.encode(text)) for text in texts] == texts


@quick
@given(any_text)
@example("<pad> <eos> is no end")
@example("日本語 🙂 \x00\r\n\u00a0 é é")
def test_subwords_round_trip_on_any_text(text):
    assert SUBWORDS.decode(SUBWORDS.encode(text)) == text


@quick
@given(texts_to_learn, any_text, st.booleans())
@example(["Σ ΑΣ"], "ΑΣ", True)
@example(["İstanbul <unk> , ."], "a.b", True)
def test_words_survive_decoding_and_encoding_again(texts, text, lowercase):
    tokeniser = WordTokeniser.train([*texts, "word"], lowercase=lowercase)
    ids = tokeniser.encode(text)
    assert tokeniser.encode(tokeniser.decode(ids)) == ids


# --- characters and words


def test_characters_are_sorted_and_unknown_ones_are_marked():
    tokeniser = CharTokeniser.train(["bacab", "cab"])
    assert tokeniser.tokens[4:] == ["a", "b", "c"]
    assert tokeniser.encode("cad") == [6, 4, tokeniser.unknown_id]
    assert tokeniser.decode([6, 1]) == "c<unk>"


def test_split_words_keeps_apostrophes_and_separates_marks():
    assert split_words("Don't go, Romeo! <unk> 3.5") == [
        "Don't",
        "go",
        ",",
        "Romeo",
        "!",
        "<unk>",
        "3",
        ".",
        "5",
    ]


def test_words_are_ordered_by_frequency_then_alphabet():
    tokeniser = WordTokeniser.train(["pear fig fig", "apple pear fig kiwi"])
    assert tokeniser.tokens[4:] == ["fig", "pear", "apple", "kiwi"]


def test_max_vocabulary_and_min_count_keep_the_frequent_words():
    texts = ["a a a b b c"]
    assert WordTokeniser.train(texts, max_vocabulary=6).tokens[4:] == ["a", "b"]
    assert WordTokeniser.train(texts, min_count=2).tokens[4:] == ["a", "b"]
    assert WordTokeniser.train(texts, max_vocabulary=6).encode("c b a") == [1, 5, 4]


def test_lower_case_is_a_choice():
    assert WordTokeniser.train(["Rose rose"]).tokens[4:] == ["rose"]
    assert set(WordTokeniser.train(["Rose rose"], lowercase=False).tokens[4:]) == {"Rose", "rose"}


def test_decoded_words_have_no_space_before_a_mark():
    tokeniser = WordTokeniser.train(["Stay, ferryman!"], lowercase=False)
    assert tokeniser.decode(tokeniser.encode("Stay , ferryman !")) == "Stay, ferryman!"


def test_further_special_tokens_take_the_next_ids_and_cannot_be_forged(tmp_path):
    tokeniser = WordTokeniser.train([["mask", "<mask>"]], specials=["<mask>", "<sep>"])
    assert tokeniser.id_of("<mask>") == 4 and tokeniser.id_of("<sep>") == 5
    assert tokeniser.encode_words(["<mask>", "mask"]) == [tokeniser.unknown_id, 6]
    tokeniser.save(tmp_path / "t.json")
    assert load_tokeniser(tmp_path / "t.json").encode_words(["<mask>"]) == [tokeniser.unknown_id]


def test_split_sentences_keep_one_id_per_word():
    sentences = [["St.", "Gallen", "is", "in", "Switzerland"], ["e.g.", "U.N."]]
    tokeniser = WordTokeniser.train(sentences)
    assert [len(tokeniser.encode_words(words)) for words in sentences] == [5, 2]
    assert tokeniser.unknown_id not in tokeniser.encode_words(sentences[1])


def test_out_of_vocabulary_rate_counts_tokens():
    tokeniser = WordTokeniser.train(["one two three"])
    assert tokeniser.out_of_vocabulary_rate(["one two", "four <unk>"]) == 0.5
    assert CharTokeniser.train(["ab"]).out_of_vocabulary_rate(["abc", "d"]) == 0.5
    assert SUBWORDS.out_of_vocabulary_rate(["jabberwocky 日本"]) == 0


# --- subwords


def test_frequent_words_become_one_piece_and_rare_ones_several():
    tokeniser = SubwordTokeniser.train(["ferry ferry ferry ferry " * 5], vocabulary_size=270)
    assert len(tokeniser.encode(" ferry")) == 1
    assert len(tokeniser.encode(" ferret")) > 1


def test_a_larger_vocabulary_makes_shorter_sequences():
    text = " ".join(TEXTS)
    sizes = [260, 300, 340]
    lengths = [len(SubwordTokeniser.train(TEXTS, vocabulary_size=size).encode(text)) for size in sizes]
    assert lengths[0] == len(text.encode())  # no merges: one id per byte
    assert lengths[0] > lengths[1] > lengths[2]


def test_vocabulary_size_is_the_upper_limit():
    assert len(SubwordTokeniser.train(TEXTS, vocabulary_size=280)) == 280
    assert len(SubwordTokeniser.train(["ab"], vocabulary_size=1000)) == 261


# --- files


def test_a_saved_tokeniser_encodes_as_before(tokeniser, tmp_path):
    path = tmp_path / "tokeniser.json"
    tokeniser.save(path)
    for again in (type(tokeniser).load(path), load_tokeniser(path)):
        assert type(again) is type(tokeniser) and len(again) == len(tokeniser)
        for text in [*TEXTS, "<pad> unseen Wörter"]:
            assert again.encode(text) == tokeniser.encode(text)
            assert again.decode(again.encode(text)) == tokeniser.decode(tokeniser.encode(text))


def test_words_keep_their_settings_in_the_file(tmp_path):
    tokeniser = WordTokeniser.train(["Rose rose"], lowercase=False)
    tokeniser.save(tmp_path / "t.json")
    assert WordTokeniser.load(tmp_path / "t.json").encode("Rose rose") == tokeniser.encode("Rose rose")
    assert len(set(tokeniser.encode("Rose rose"))) == 2


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        load_tokeniser(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"kind": "words", "tok', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[1, 2]", "not a tokeniser file"),
        (b'{"kind": "runes"}', "'kind' must be one of"),
        (b'{"kind": "characters"}', "damaged"),
        (b'{"kind": "characters", "tokens": ["a", "b"]}', "first four tokens"),
        (b'{"kind": "characters", "tokens": ["<pad>", "<unk>", "<bos>", "<eos>", "a", "a"]}', "appear twice"),
        (b'{"kind": "words", "tokens": ["<pad>", "<unk>", "<bos>", "<eos>", "a"]}', "lowercase"),
        (b'{"kind": "subwords", "tokenizer": {"model": 3}}', "damaged"),
    ],
)
def test_corrupt_files_are_refused_with_a_reason(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_tokeniser(path)
    assert "broken.json" in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    CharTokeniser.train(TEXTS).save(tmp_path / "t.json")
    with pytest.raises(ValueError, match="holds a 'characters' tokeniser, not a 'words' one"):
        WordTokeniser.load(tmp_path / "t.json")


def test_the_file_is_plain_json(tokeniser, tmp_path):
    tokeniser.save(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text("ascii"))["kind"] == tokeniser.kind


# --- errors


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
@pytest.mark.parametrize("texts", [[], [""]], ids=["no text", "empty text"])
def test_training_on_nothing_is_refused(kind, texts):
    with pytest.raises(ValueError, match="texts to learn from"):
        kind.train(texts)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_one_string_instead_of_a_list_is_refused(kind):
    with pytest.raises(TypeError, match=r"write \[text\]"):
        kind.train("one text")


def test_a_bpe_of_others_with_other_special_tokens_is_refused():
    from tokenizers import Tokenizer, models

    with pytest.raises(ValueError, match="first four tokens must be"):
        SubwordTokeniser(Tokenizer(models.BPE()))


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"exceed the 4 special tokens, got 4"):
        WordTokeniser.train(TEXTS, max_vocabulary=4)
    with pytest.raises(ValueError, match="at least 260"):
        SubwordTokeniser.train(TEXTS, vocabulary_size=100)


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_ids_out_of_range_are_refused(tokeniser, bad):
    with pytest.raises(ValueError, match=rf"0 \.\. {len(tokeniser) - 1} .*got {bad}"):
        tokeniser.decode([4, bad])
    with pytest.raises(ValueError, match="ids must lie in"):
        tokeniser.token_of(bad)


def test_the_size_of_the_vocabulary_is_the_first_id_out_of_range(tokeniser):
    assert isinstance(tokeniser.decode([len(tokeniser) - 1]), str)
    with pytest.raises(ValueError, match="ids must lie in"):
        tokeniser.decode([len(tokeniser)])


def test_wrong_types_are_refused(tokeniser):
    with pytest.raises(TypeError, match="one text"):
        tokeniser.encode(["a", "list"])
    with pytest.raises(TypeError, match="flat list of integer ids"):
        tokeniser.decode(torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(TypeError, match="flat list of integer ids"):
        tokeniser.decode([4.0])
    with pytest.raises(TypeError, match="use encode for a text"):
        WordTokeniser.train(TEXTS).encode_words("one text")


def test_no_token_at_all_has_no_rate(tokeniser):
    with pytest.raises(ValueError, match="at least one token"):
        tokeniser.out_of_vocabulary_rate([""])


def test_importing_the_module_does_not_import_tokenizers():
    code = "import sys, seqcourse.data.tokenisation; sys.exit('tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
