"""Models: neither batch nor padding matter, the future does not leak, chunks equal the whole."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from seqcourse.cells import ConvLSTMCell
from seqcourse.data.batching import BucketedBatches, language_model_batches, pad
from seqcourse.models import (
    Forecaster,
    LanguageModel,
    NextFramePredictor,
    SequenceTagger,
    StreamLoss,
    TextClassifier,
)
from seqcourse.models.sampling import keep_top_k, keep_top_p, next_token_probabilities
from seqcourse.recurrent import GRU, Recurrent

B, T, D, H, V, K = 3, 7, 5, 4, 11, 6
LENGTHS = torch.tensor([7, 2, 5])
KINDS = ["rnn", "lstm", "gru"]
POOLINGS = ["last", "mean", "max", "attention"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tokens():
    """Padded at the end with 0; real ids are 1 to V - 1."""
    ids = torch.randint(1, V, (B, T))
    return ids.masked_fill(torch.arange(T) >= LENGTHS[:, None], 0)


def classifier(**options):
    return TextClassifier(V, D, H, K, **options).double().eval()


def tagger(**options):
    return SequenceTagger(V, D, H, K, **options).double().eval()


def language_model(**options):
    return LanguageModel(V, D, H, **options).double().eval()


def lively_model():
    """A language model with strong weights, so that its most probable token changes from step to step."""
    model = language_model(recurrent="rnn")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


def equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


# --- classifier and tagger -----------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_classifier_sees_neither_padding_nor_the_batch(tokens, kind, pooling, bidirectional):
    model = classifier(recurrent=kind, pooling=pooling, bidirectional=bidirectional, num_layers=2)
    together = model(tokens, LENGTHS)
    alone = torch.cat(
        [model(row[None, :n], torch.tensor([n])) for row, n in zip(tokens, LENGTHS, strict=True)]
    )
    equal(together, alone)
    other_padding = tokens.masked_fill(tokens == 0, 9)  # the ids in the padding must not matter either
    equal(model(other_padding, LENGTHS), alone)
    equal(model(torch.cat([tokens, torch.zeros(B, 4, dtype=torch.long)], 1), LENGTHS), alone)
    assert together.shape == (B, K) and not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_lengths_are_counted_from_the_padding(tokens, pooling):
    model = classifier(pooling=pooling)
    tokens[0, 2] = 0  # padding inside a text is not its end
    equal(model(tokens), model(tokens, LENGTHS))


def test_pooling_is_what_its_name_says(tokens):
    """Each pooling against the same sum over the plain outputs, written out for one text."""
    models = {name: classifier(pooling=name, recurrent="gru") for name in POOLINGS}
    n = 5
    for name, model in models.items():
        output, _ = model.recurrent(model.embedding(tokens[2:, :n]))
        output = output[0]  # (n, H)
        if name == "attention":
            scores = torch.tanh(
                output @ model.attention.projection.weight.T + model.attention.projection.bias
            )
            weights = (scores @ model.attention.query.weight[0]).exp()
            pooled = (weights / weights.sum()) @ output
        else:
            pooled = {"last": output[-1], "mean": output.sum(0) / n, "max": output.max(0).values}[name]
        equal(model(tokens, LENGTHS)[2], model.head.weight @ pooled + model.head.bias)


def test_last_pooling_of_two_directions_takes_both_ends(tokens):
    model = classifier(bidirectional=True)
    output, _ = model.recurrent(model.embedding(tokens[1:2, :2]))
    ends = torch.cat([output[0, 1, :H], output[0, 0, H:]])  # forward's last step, backward's last is step 0
    equal(model(tokens, LENGTHS)[1], model.head.weight @ ends + model.head.bias)


def test_attention_weights_are_a_distribution_over_real_tokens(tokens):
    model = classifier(pooling="attention")
    weights = model.attention_weights(tokens, LENGTHS)
    equal(weights.sum(1), torch.ones(B).double())
    assert (weights[tokens == 0] == 0).all() and (weights[tokens != 0] > 0).all()
    with pytest.raises(ValueError, match=r"pooling='attention'.*'mean'"):
        classifier(pooling="mean").attention_weights(tokens, LENGTHS)


@pytest.mark.parametrize("kind", KINDS)
def test_tagger_sees_neither_padding_nor_the_batch(tokens, kind):
    model = tagger(recurrent=kind, num_layers=2)
    together = model(tokens.masked_fill(tokens == 0, 9), LENGTHS)
    assert together.shape == (B, T, K)
    for row, n, logits in zip(tokens, LENGTHS, together, strict=True):
        equal(logits[:n], model(row[None, :n])[0])


def test_tagger_looks_to_the_right_only_if_bidirectional(tokens):
    changed = tokens.clone()
    changed[0, -1] = tokens[0, -1] % (V - 1) + 1
    for bidirectional in (True, False):
        model = tagger(bidirectional=bidirectional)
        same = torch.equal(model(tokens)[0, 0], model(changed)[0, 0])
        assert same is not bidirectional


def test_tagger_loss_is_the_mean_over_real_tokens(tokens):
    examples = [(row[:n].tolist(), [i % K for i in range(n)]) for row, n in zip(tokens, LENGTHS, strict=True)]
    batch = next(iter(BucketedBatches(examples, batch_size=B)))
    model = tagger()
    each = [
        F.cross_entropy(model(torch.tensor([ids]))[0], torch.tensor(tags), reduction="sum")
        for ids, tags in examples
    ]
    equal(model.loss(batch), sum(each) / LENGTHS.sum())


def test_tagger_predicts_one_tag_per_token(tokens):
    model = tagger()
    predicted = model.predict(tokens)
    assert [len(tags) for tags in predicted] == LENGTHS.tolist()
    assert predicted[1] == model(tokens[1:2, :2])[0].argmax(1).tolist()


def test_classifier_loss_takes_batches_and_tuples(tokens):
    model, labels = classifier(), torch.tensor([0, 5, 2])
    expected = F.cross_entropy(model(tokens, LENGTHS), labels)
    equal(model.loss((tokens, LENGTHS, labels)), expected)
    equal(model.loss((tokens, labels)), expected)
    batch = pad([row[:n] for row, n in zip(tokens, LENGTHS, strict=True)])
    with pytest.raises(ValueError, match="batch with labels"):
        model.loss(batch)
    assert torch.equal(model.predict(tokens), model(tokens).argmax(1))


# --- language model ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_language_model_chunks_equal_the_whole(tokens, kind):
    model = language_model(recurrent=kind, num_layers=2)
    whole, final = model(tokens)
    assert whole.shape == (B, T, V)
    for size in (1, 3):
        state, parts = None, []
        for chunk in tokens.split(size, dim=1):
            logits, state = model(chunk, state)
            parts.append(logits)
        equal(torch.cat(parts, dim=1), whole)
        torch.testing.assert_close(state, final, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_language_model_does_not_see_the_future(tokens, kind):
    model = language_model(recurrent=kind)
    for t in range(T - 1):
        changed = tokens.clone()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 3) % V
        before, after = model(tokens)[0], model(changed)[0]
        equal(before[:, : t + 1], after[:, : t + 1])
        assert not torch.allclose(before[:, t + 1], after[:, t + 1])


def test_language_model_rows_do_not_see_each_other(tokens):
    model = language_model()
    equal(model(tokens)[0], torch.cat([model(row[None])[0] for row in tokens]))


def test_language_model_loss_of_padded_texts_counts_real_targets(tokens):
    model = language_model()
    rows = [row[:n] for row, n in zip(tokens, LENGTHS, strict=True)]
    each = [F.cross_entropy(model(row[None, :-1])[0][0], row[1:], reduction="sum") for row in rows]
    equal(model.loss(pad(rows)), sum(each) / (LENGTHS - 1).sum())


def test_language_model_loss_accepts_plain_tokens_and_pairs(tokens):
    model = language_model()
    equal(model.loss(tokens), model.loss((tokens[:, :-1], tokens[:, 1:])))
    with pytest.raises(ValueError, match="at least 2 tokens"):
        model.loss(tokens[:, :1])


def test_tied_weights_are_one_parameter():
    model = LanguageModel(V, H, H, tie_weights=True)
    assert model.head.weight is model.embedding.weight
    loose = sum(p.numel() for p in LanguageModel(V, H, H).parameters())
    assert loose - sum(p.numel() for p in model.parameters()) == V * H
    model.loss(torch.randint(0, V, (B, T))).backward()
    unread = set(range(V)) - set(range(3))
    assert model.head.weight.grad[sorted(unread)].abs().sum() > 0
    with pytest.raises(ValueError, match="embedding_size == hidden_size, got 5 and 4"):
        LanguageModel(V, D, H, tie_weights=True)


def test_stream_loss_carries_the_state_and_starts_anew_each_epoch():
    ids = torch.randint(0, V, (B * 10 + 1,))
    model, loss = language_model(), StreamLoss()
    batches = list(language_model_batches(ids, batch_size=B, length=4))
    assert [batch.tokens.shape[1] for batch in batches] == [4, 4, 2]
    whole = next(iter(language_model_batches(ids, batch_size=B, length=10)))
    expected = F.cross_entropy(model(whole.tokens)[0].transpose(1, 2), whole.targets)
    for _ in range(2):
        losses = torch.stack([loss(model, batch) for batch in batches])
        equal((losses * torch.tensor([4, 4, 2])).sum() / 10, expected)


def test_stream_loss_cuts_gradients_and_keeps_training_and_validation_apart():
    batches = list(language_model_batches(torch.randint(0, V, (B * 8 + 1,)), batch_size=B, length=4))
    model, loss = language_model(), StreamLoss()
    model.train()
    loss(model, batches[0])
    carried = loss.carried["training"]
    assert not carried[0].requires_grad
    model.eval()
    loss(model, batches[0])
    assert loss.carried["training"] is carried and loss.carried["evaluation"] is not None
    copy = StreamLoss()
    copy.load_state_dict(loss.state_dict())
    model.train()
    equal(copy(model, batches[1]), loss(model, batches[1]))


# --- sampling ------------------------------------------------------------------------------------


LOGITS = torch.tensor([0.2, 2.0, -1.0, 1.5, 0.0, 1.5, -3.0, 0.7, 1.0, -0.5], dtype=torch.float64)
CHI_SQUARE_9 = 27.88  # 0.999 quantile for 9 degrees of freedom


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_sampled_frequencies_match_the_softmax(temperature):
    """Chi-square against probabilities written out, through the whole of generate."""

    model = language_model()
    with torch.no_grad():  # whatever is read, the logits are LOGITS, and V - 10 tokens are impossible
        model.head.weight.zero_()
        model.head.bias.copy_(torch.cat([LOGITS, torch.full((V - 10,), -torch.inf)]))
    n = 4000
    generator = torch.Generator().manual_seed(1)
    drawn = torch.tensor(list(model.generate([1], n, temperature, generator=generator)))
    weights = [math.exp(x / temperature) for x in LOGITS.tolist()]
    expected = torch.tensor([n * w / sum(weights) for w in weights])
    observed = torch.bincount(drawn, minlength=10)
    assert observed.shape == (10,)
    assert ((observed - expected).square() / expected).sum() < CHI_SQUARE_9


def test_temperature_zero_top_k_one_and_tiny_top_p_are_greedy():
    model = lively_model()
    greedy = list(model.generate([1, 2, 3], 20, temperature=0))
    assert len(set(greedy)) > 2, "the case must be able to differ"
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}):
        assert list(model.generate([1, 2, 3], 20, **options)) == greedy, options


def test_greedy_is_the_argmax_of_the_whole_sequence_again_and_again():
    model = lively_model()
    text = [3, 1, 4]
    for _ in range(12):
        text.append(model(torch.tensor([text]))[0][0, -1].argmax().item())
    assert list(model.generate(text[:3], 12, temperature=0)) == text[3:]


def test_top_k_keeps_exactly_k_of_the_most_probable():
    kept = keep_top_k(LOGITS, 3)
    assert torch.isfinite(kept).nonzero().flatten().tolist() == [1, 3, 5]
    assert keep_top_k(LOGITS, 2).isfinite().nonzero().flatten().tolist() == [1, 3], "of equals the first"
    equal(keep_top_k(LOGITS, 99), LOGITS)
    equal(kept[[1, 3, 5]], LOGITS[[1, 3, 5]])


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    probabilities = LOGITS.softmax(0)
    order = probabilities.argsort(descending=True, stable=True)
    for p in (0.05, 0.3, 0.5, 0.77, 0.95, 1.0):
        kept = keep_top_p(LOGITS, p).isfinite()
        size = int(kept.sum())
        assert set(order[:size].tolist()) == set(kept.nonzero().flatten().tolist())
        assert probabilities[kept].sum() >= p - 1e-12
        assert size == 1 or probabilities[order[: size - 1]].sum() < p


def test_options_combine_temperature_first_and_work_on_batches():
    distinct = LOGITS + 0.01 * torch.arange(10)  # no ties, which flipping would turn round
    logits = torch.stack([distinct, distinct.flip(0)])
    combined = next_token_probabilities(logits, temperature=0.5, top_k=4, top_p=0.6)
    expected = keep_top_p(keep_top_k(distinct * 2, 4), 0.6).softmax(0)
    equal(combined, torch.stack([expected, expected.flip(0)]))
    assert (combined[0] > 0).sum() < 4, "the case must cut by top_p too"


def test_generation_repeats_with_a_seed_and_differs_without():
    model = language_model()
    first, second = (
        list(model.generate([1], 30, generator=torch.Generator().manual_seed(s))) for s in (5, 5)
    )
    assert first == second
    assert list(model.generate([1], 30, generator=torch.Generator().manual_seed(6))) != first


def test_generation_streams_one_step_per_token():
    model = language_model()
    reads = []
    model.recurrent.register_forward_hook(lambda module, inputs, output: reads.append(inputs[0].shape[1]))
    stream = model.generate([1, 2, 3, 4], 5)
    assert reads == []
    next(stream)
    assert reads == [4]
    assert len(list(stream)) == 4
    assert reads == [4, 1, 1, 1, 1]


def test_generation_ignores_dropout_and_changes_no_mode_between_tokens():
    model = LanguageModel(V, D, H, dropout=0.5).double().train()
    stream = model.generate([1, 2], 10, temperature=0)
    drawn = [next(stream)]
    assert model.training and torch.is_grad_enabled()
    drawn += stream
    assert drawn == list(model.eval().generate([1, 2], 10, temperature=0))


def test_generation_stops_after_the_stop_token():
    model = language_model()
    free = list(model.generate([1], 20, generator=torch.Generator().manual_seed(2)))
    stop = free[7]
    cut = list(model.generate([1], 20, generator=torch.Generator().manual_seed(2), stop_id=stop))
    assert cut == free[: free.index(stop) + 1]


# --- forecaster ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_forecaster_sees_neither_padding_nor_the_batch(kind):
    x = torch.randn(B, T, D).double()
    model = Forecaster(D, H, kind, horizon=2, residual=True, target=3, num_layers=2).double().eval()
    dirty = x.masked_fill((torch.arange(T) >= LENGTHS[:, None]).unsqueeze(2), 99.0)
    together = model(dirty, LENGTHS)
    assert together.shape == (B, 2)
    equal(together, torch.cat([model(row[None, :n]) for row, n in zip(x, LENGTHS, strict=True)]))


def test_residual_forecaster_with_a_silent_head_is_persistence():
    x = torch.randn(B, T, D)
    model = Forecaster(D, H, horizon=3, residual=True, target=2)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    equal(model(x), x[:, -1:, 2].expand(B, 3))


@pytest.mark.parametrize("residual", [False, True])
def test_recursive_forecast_reads_its_own_forecasts(residual):
    x = torch.randn(B, T, 1).double()
    model = Forecaster(1, H, "lstm", horizon=3, strategy="recursive", residual=residual).double().eval()
    series = x
    for _ in range(3):
        output, _ = model.recurrent(series)
        change = model.head(output[:, -1])  # (B, 1)
        following = change + series[:, -1] if residual else change
        series = torch.cat([series, following.unsqueeze(1)], dim=1)
    equal(model(x), series[:, T:, 0])


def test_forecaster_loss_is_the_mean_squared_error():
    x, targets = torch.randn(B, T, D), torch.randn(B, 2)
    model = Forecaster(D, H, horizon=2)
    equal(model.loss((x, targets)), (model(x) - targets).square().mean())
    with pytest.raises(ValueError, match=r"\(3, 2\), got \(3, 1\)"):
        model.loss((x, targets[:, :1]))


# --- next frame ----------------------------------------------------------------------------------


@pytest.fixture
def frames():
    return torch.rand(B, T, 2, 6, 5, dtype=torch.float64)


def frame_model(**options):
    return NextFramePredictor(2, H, **options).double().eval()


def test_next_frame_chunks_equal_the_whole_and_the_future_does_not_leak(frames):
    model = frame_model(num_layers=2)
    whole, _ = model(frames)
    assert whole.shape == frames.shape
    first, state = model(frames[:, :3])
    second, _ = model(frames[:, 3:], state)
    equal(torch.cat([first, second], dim=1), whole)
    changed = frames.clone()
    changed[:, 4:] += 1
    equal(model(changed)[0][:, :4], whole[:, :4])
    equal(torch.cat([model(film[None])[0] for film in frames]), whole)


def test_next_frame_forecast_reads_its_own_frames(frames):
    model = frame_model()
    film = frames
    with torch.no_grad():
        for _ in range(3):
            film = torch.cat([film, model(film)[0][:, -1:].sigmoid()], dim=1)
    equal(model.forecast(frames, 3), film[:, T:])
    with pytest.raises(ValueError, match="at least 1 step"):
        model.forecast(frames, 0)


def test_next_frame_loss_compares_with_the_following_frames(frames):
    model = frame_model()
    p = model(frames)[0].sigmoid()[:, :-1]
    truth = frames[:, 1:]
    equal(model.loss(frames), -(truth * p.log() + (1 - truth) * (1 - p).log()).mean())
    equal(model.loss((frames, "ignored")), model.loss(frames))
    with pytest.raises(ValueError, match="at least 2 frames"):
        model.loss(frames[:, :1])


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("build", [classifier, tagger, language_model])
@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.zeros(B, T), TypeError, "integer tensor"),
        ([[1, 2]], TypeError, "got list"),
        (torch.ones(T, dtype=torch.long), ValueError, r"\(B, T\), got shape \(7,\)"),
        (torch.ones(0, T, dtype=torch.long), ValueError, "at least one sequence"),
        (torch.ones(B, 0, dtype=torch.long), ValueError, "at least one sequence"),
        (torch.full((B, T), V), ValueError, "token id 11 is outside the vocabulary 0 .. 10"),
        (torch.full((B, T), -1), ValueError, "token id -1 is outside"),
    ],
)
def test_wrong_tokens_are_named(build, tokens, error, message):
    with pytest.raises(error, match=message):
        build()(tokens)


@pytest.mark.parametrize("build", [classifier, tagger])
@pytest.mark.parametrize("lengths", [[7, 0, 5], [7, 8, 5], [7, 2]])
def test_wrong_lengths_are_refused(tokens, build, lengths):
    with pytest.raises(ValueError, match="length"):
        build()(tokens, torch.tensor(lengths))


@pytest.mark.parametrize("prompt", [[], torch.ones(1, 3, dtype=torch.long)])
def test_wrong_prompts_are_refused_at_once(prompt):
    with pytest.raises(ValueError, match="prompt of at least one id"):
        language_model().generate(prompt, 3)  # no token has to be asked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "at least 0 .* got -1.0"),
        ({"top_k": 0}, "top_k of at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, "got 1.5"),
        ({"max_new": -1}, "max_new"),
        ({"prompt": [V]}, "outside the vocabulary"),
    ],
)
def test_wrong_sampling_options_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        language_model().generate(**{"prompt": [1], "max_new": 2, **options})


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: classifier(recurrent="transformer"), ValueError, "rnn, lstm, gru, got 'transformer'"),
        (lambda: classifier(recurrent=torch.nn.LSTM), TypeError, "'rnn', 'lstm', 'gru' or a Recurrent"),
        (
            lambda: classifier(recurrent=GRU(D + 1, H)),
            ValueError,
            "and hidden_size 4, got 6 and 4",
        ),
        (lambda: classifier(pooling="sum"), ValueError, "last, mean, max, attention, got 'sum'"),
        (lambda: language_model(recurrent=GRU(D, H, bidirectional=True)), ValueError, "one direction"),
        (lambda: Forecaster(D, H, horizon=0), ValueError, "horizon of at least 1"),
        (lambda: Forecaster(D, H, strategy="both"), ValueError, "'direct' or 'recursive'"),
        (lambda: Forecaster(D, H, strategy="recursive"), ValueError, "input_size 1; got 5"),
        (lambda: Forecaster(D, H, target=D), ValueError, "0 .. 4, got 5"),
        (lambda: frame_model(recurrent=Recurrent(ConvLSTMCell(3, H))), ValueError, "over 2 channels, got 3"),
    ],
)
def test_wrong_models_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_ready_recurrent_module_is_used_as_it_is(tokens):
    ready = GRU(D, H, num_layers=2, bidirectional=True, impl="loop")
    model = classifier(recurrent=ready, pooling="mean")
    assert model.recurrent is ready and model.head.in_features == 2 * H
    assert model(tokens).shape == (B, K)
