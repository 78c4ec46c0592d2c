"""The attention map's JavaScript translates as our model does, on the same rounded weights."""

from __future__ import annotations

import base64
import copy
import json
import random
import subprocess
from pathlib import Path

import pytest
import torch
from test_explorables import node

from seqcourse import pretrained
from seqcourse.data.generated import toy_translation
from seqcourse.data.tokenisation import SubwordTokeniser
from seqcourse.explorables import attention_map
from seqcourse.explorables.attention_map import SENTENCES, AttentionMap, pack
from seqcourse.models.decoding import greedy
from seqcourse.models.translation import TransformerTranslator
from seqcourse.pretrained import Trained, restored_tensor, rounded_tensor
from seqcourse.translating import prepare

MODULE = Path(__file__).parents[1] / "seqcourse" / "explorables" / "attention_map.mjs"
TOLERANCE = 1e-9  # JavaScript computes in double precision, and so does the model here


def evaluate(body: str, argument: object) -> object:
    """Run JavaScript that sees the explorable's module as `map` and the argument as `given`."""
    script = (
        f"import * as map from {json.dumps(MODULE.as_uri())};\n"
        "let text = ''; for await (const part of process.stdin) text += part;\n"
        f"const given = JSON.parse(text);\nconst run = () => {{ {body} }};\n"
        "const plain = (_, value) => (ArrayBuffer.isView(value) ? [...value] : value);\n"
        "process.stdout.write(JSON.stringify(run(), plain));\n"
    )
    command = [node(), "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(argument), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def tokenisers() -> list[SubwordTokeniser]:
    pairs = toy_translation().train
    return [
        SubwordTokeniser.train([*side, "über don't 12 24 é"], size)
        for side, size in zip(zip(*pairs, strict=True), (310, 290), strict=True)
    ]


def rounded_(model: TransformerTranslator) -> TransformerTranslator:
    """Round the weights as a checkpoint does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(restored_tensor(rounded_tensor(parameter)))
    return model


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def trained(request, tokenisers) -> Trained:
    """Not trained at all, with weights large enough that it attends sharply; all sizes differ."""
    torch.manual_seed(3)
    sizes = map(len, tokenisers)
    model = TransformerTranslator(
        *sizes, size=12, heads=3, layers=2, inner_size=20, tie_weights=request.param
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return Trained(rounded_(model).eval(), *tokenisers, records=())


@pytest.fixture(scope="module")
def packed(trained) -> dict:
    return pack(trained)


@pytest.fixture
def model(trained) -> TransformerTranslator:
    return copy.deepcopy(trained.model).double()


def assert_close(found: list, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=0, atol=TOLERANCE)


def self_attention(block, run) -> torch.Tensor:
    """The weights of a block's self-attention, (N, T, T), seen while `run` computes."""
    attention, seen = block.self_attention, []
    original = attention.look

    def look(query, key, value, mask=None, need_weights=False, start=0):
        output, weights = original(query, key, value, mask, need_weights=True, start=start)
        seen.append(weights[0])
        return output, weights

    attention.look = look
    try:
        with torch.no_grad():
            run()
    finally:
        del attention.look
    return seen[0]


# --- tokens --------------------------------------------------------------------------------------------


TEXTS = [
    "", " ", "Ein Hund läuft.", "zwei  Leerzeichen   drei", " vorn und hinten ", "Zeile\nneu\t\tTab \n ",
    "don't we'll I'm O'Neill's 'ss", "12 Äpfel, 3,50 € (1999)!?", "<pad><bos> <unk>", "naïve Straße ÄÖÜ",
    "日本語 и кириллица", "👩‍🚀 ok", "a\u00a0b\u2003c", "....   ...", "x_y__z", "1a2b", "\u00ad\u007f\u0001",
]  # fmt: skip


def random_texts(count: int) -> list[str]:
    draw = random.Random(5)
    alphabet = "aeinrst ABZ äöüß '.,;!?0129\n\t€é日\u0301🙂"
    return ["".join(draw.choices(alphabet, k=draw.randrange(40))) for _ in range(count)]


def test_tokens_are_those_of_the_tokeniser(tokenisers, packed):
    texts = [*TEXTS, *random_texts(300), *(source for source, _ in toy_translation().test[:50])]
    body = (
        "const made = map.makeTokeniser(given.source); return given.texts.map((text) => made.encode(text));"
    )
    found = evaluate(body, {"source": packed["source"], "texts": texts})
    assert found == [tokenisers[0].encode(text) for text in texts]


def test_ids_become_text_again(tokenisers, packed):
    draw = random.Random(6)
    size = len(tokenisers[1])
    lists = [[draw.randrange(size) for _ in range(draw.randrange(12))] for _ in range(200)]
    lists += [tokenisers[1].encode(text, begin=True, end=True) for text in TEXTS]
    body = "const made = map.makeTokeniser(given.target); return given.lists.map((ids) => made.decode(ids));"
    found = evaluate(body, {"target": packed["target"], "lists": lists})
    # <unk> never comes out of a byte-level tokeniser: Python would print it, the map leaves it out.
    assert found == [tokenisers[1].decode([i for i in ids if i != 1]) for ids in lists]


def test_a_typed_sentence_is_prepared_as_in_training():
    texts = ["Ein HUND.", "ÄÖÜ ẞ", "", "ΣΑΣ İ"]
    assert evaluate("return given.map(map.prepare);", texts) == [prepare(text) for text in texts]


def test_pieces_show_where_a_word_goes_on(tokenisers, packed):
    body = """
      const {begin_id, end_id, source} = given.packed;
      return map.pieces(map.makeTokeniser(source), [begin_id, ...given.ids, end_id], given.packed);"""
    ids = tokenisers[0].encode(" zzq zz.")
    shown = evaluate(body, {"packed": packed, "ids": ids})
    assert shown[0] == "(begin)" and shown[-1] == "(end)" and shown[-2] == "."
    words = "".join(
        piece.removeprefix("-") if piece.startswith("-") else f" {piece}" for piece in shown[1:-2]
    )
    assert words.split() == ["zzq", "zz"] and any(piece.startswith("-") for piece in shown)


# --- weights -------------------------------------------------------------------------------------------


def test_unpacked_weights_are_those_of_the_checkpoint(trained, packed):
    tensors = evaluate("return map.unpack(given);", packed)
    parameters = dict(trained.model.named_parameters())
    assert set(tensors) == set(parameters)
    for name, values in tensors.items():
        assert torch.equal(torch.tensor(values), parameters[name]), name


def test_weights_that_are_not_rounded_yet_get_rounded(tokenisers):
    torch.manual_seed(4)
    model = TransformerTranslator(*map(len, tokenisers), size=6, heads=3, layers=1)
    packed = pack(Trained(model, *tokenisers, records=()))
    assert packed == pack(Trained(rounded_(model), *tokenisers, records=()))


def test_base_85():
    for length in (4, 8, 400):
        content = random.Random(length).randbytes(length)
        found = evaluate("return map.fromBase85(given);", base64.b85encode(content).decode())
        assert bytes(found) == content
    assert evaluate("return map.fromBase85(given);", base64.b85encode(b"\xff" * 4).decode()) == [255] * 4


def test_half_precision():
    bits = [0, 1, 2, 1023, 1024, 15360, 15361, 31743, 32768, 33000, 48128, 64511]
    expected = torch.tensor(bits).to(torch.int32).to(torch.int16).view(torch.float16)
    assert evaluate("return given.map(map.half);", bits) == expected.double().tolist()


# --- arithmetic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 9])
def test_encoder(model, packed, length):
    ids = torch.randint(
        4, model.source_vocabulary_size, (1, length), generator=torch.Generator().manual_seed(length)
    )
    found = evaluate(
        "return map.encode(map.makeTranslator(given.packed), given.ids);",
        {"packed": packed, "ids": ids[0].tolist()},
    )
    with torch.no_grad():
        assert_close(found["memory"], model.encode(ids).output[0])
    for layer, block in enumerate(model.encoder.blocks):
        weights = self_attention(block, lambda: model.encode(ids))  # (N, S, S)
        assert_close(found["attention"][layer], weights.transpose(0, 1))


def test_decoder_step_by_step(model, packed):
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, model.source_vocabulary_size, (1, 7), generator=generator)
    target = torch.randint(4, model.target_vocabulary_size, (1, 5), generator=generator)
    body = """
      const model = map.makeTranslator(given.packed);
      const state = map.start(model, map.encode(model, given.source).memory);
      return given.target.map((id) => map.decodeStep(model, id, state));"""
    steps = evaluate(body, {"packed": packed, "source": source[0].tolist(), "target": target[0].tolist()})
    with torch.no_grad():
        logits, across = model(source, target)[0], model.attention_maps(source, target)[0]
    back = [self_attention(block, lambda: model(source, target)) for block in model.decoder.blocks]
    for t, step in enumerate(steps):
        assert_close(step["logits"], logits[t])
        assert_close(step["cross"], across[:, :, t])  # (layers, N, S)
        assert_close(step["self"], torch.stack(back)[:, :, t, : t + 1])


def test_greedy_translation(model, packed):
    generator = torch.Generator().manual_seed(2)
    sources = [
        torch.randint(4, model.source_vocabulary_size, (1, n), generator=generator) for n in (1, 3, 8, 15)
    ]
    body = """
      const model = map.makeTranslator(given.packed);
      return given.sources.map((ids) => map.translate(model, ids, 12));"""
    found = evaluate(body, {"packed": packed, "sources": [source[0].tolist() for source in sources]})
    for source, translation in zip(sources, found, strict=True):
        (expected,) = greedy(model, source, max_length=12)
        assert translation["tokens"] == expected.tokens + [model.end_id] * expected.ended
        alignment = torch.tensor(translation["cross"], dtype=torch.float64)[: len(expected.tokens), -1].mean(
            dim=1
        )
        torch.testing.assert_close(alignment, expected.alignment, rtol=0, atol=TOLERANCE)


# --- what is shown -------------------------------------------------------------------------------------


def test_levels_of_a_token():
    draw = torch.Generator().manual_seed(4)
    encoder = torch.rand(2, 4, 3, 4, generator=draw).tolist()  # [layer][source][head][source]
    cross = torch.rand(3, 2, 3, 4, generator=draw).tolist()  # [target][layer][head][source]
    back = [
        torch.rand(2, 3, t + 1, generator=draw).tolist() for t in range(3)
    ]  # [target][layer][head][before]
    given = {"encoder": encoder, "cross": cross, "self": back}
    body = (
        "return given.asked.map(([row, place, layer, head]) => map.levels(given, {row, place}, layer, head));"
    )
    asked = [["target", 2, 1, 0], ["target", 1, 0, -1], ["source", 3, 1, 2]]
    written, mean, read = evaluate(body, given | {"asked": asked})
    assert written == {"source": cross[2][1][0], "target": back[2][1][0]}
    assert mean["source"] == pytest.approx(torch.tensor(cross[1][0]).mean(dim=0).tolist())
    assert mean["target"] == pytest.approx(torch.tensor(back[1][0]).mean(dim=0).tolist())
    assert read["source"] == encoder[1][3][2]
    assert read["target"] == [None, *(cross[t][1][2][3] for t in range(3))]  # nothing for "(begin)"


def test_widget_carries_the_packed_translator(trained, packed):
    shown = AttentionMap.of(trained)
    assert shown.translator == packed and shown.layer == 1 and shown.head == -1
    assert shown.sentence == SENTENCES[0] and shown.sentences == list(SENTENCES)
    own = AttentionMap.of(trained, sentences=["eins", "zwei"], layer=0, sentence="zwei")
    assert (own.layer, own.sentence) == (0, "zwei")
    assert "http" not in own.page_copy().replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    "options", [{"norm_first": False}, {"positions": "learned"}, {"positions": "rotary"}]
)
def test_what_the_browser_cannot_compute_is_refused(options, tokenisers):
    model = TransformerTranslator(*map(len, tokenisers), 12, heads=3, layers=1, **options)
    with pytest.raises(ValueError, match="expected a pre-norm Transformer with sinusoidal positions"):
        pack(Trained(model, *tokenisers, records=()))


def test_a_vocabulary_too_large_for_two_digits_is_refused(trained, monkeypatch):
    monkeypatch.setattr(attention_map, "BASE", 17)
    with pytest.raises(ValueError, match="of at most 289 tokens"):
        pack(trained)


# --- the checkpoint ------------------------------------------------------------------------------------


PAGE_BYTES = 700_000  # what the map may add to a page


@pytest.fixture(scope="module")
def checkpoint() -> Trained:
    return pretrained.load("translator-transformer")


def test_the_checkpoint_fits_into_a_page(checkpoint):
    assert len(AttentionMap.of(checkpoint).page_copy().encode()) < PAGE_BYTES


def test_the_checkpoint_translates_the_sentences_as_the_package_does(checkpoint):
    body = """
      const model = map.makeTranslator(given.packed);
      const found = given.sentences.map((text) => map.translate(model, model.source.encode(map.prepare(text)), 60));
      return found.map(({tokens}) => model.target.decode(tokens).trim());"""
    found = evaluate(body, {"packed": pack(checkpoint), "sentences": SENTENCES})
    assert found == checkpoint.translate(*SENTENCES)
    assert len(set(found)) == len(SENTENCES)
