"""The training loop: what it does in a step, when it stops, what it keeps, what it refuses."""

from __future__ import annotations

import copy
import io
import json
import math
import sys
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from seqcourse.checkpoint import CheckpointCorrupt, CheckpointMismatch, share_of_batch
from seqcourse.data.batching import TensorBatches
from seqcourse.engine import SingleDevice, map_tensors
from seqcourse.history import History, watched
from seqcourse.schedules import EarlyStopping, WarmupCosine
from seqcourse.training import NonFiniteLoss, evaluate, fit

N, D, BATCH = 26, 5, 6


def squared_error(model, batch):
    inputs, targets = batch
    return (model(inputs).squeeze(1) - targets).square().mean()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, D, generator=generator)
    return inputs, inputs @ torch.arange(1.0, D + 1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))


@pytest.fixture
def batches(data):
    return TensorBatches(*data, batch_size=BATCH, seed=1)


def sgd(model, lr=0.05):
    return torch.optim.SGD(model.parameters(), lr=lr)


def run(model, batches, **options):
    return fit(model, batches, loss=squared_error, **{"device": "cpu", "epochs": 3, **options})


def weights(model):
    return copy.deepcopy(model.state_dict())


# --- steps ---------------------------------------------------------------------------------------


def test_equals_a_loop_written_by_hand(model, batches):
    """Clipping, schedule and optimiser, against plain torch on a copy (without dropout, which draws)."""
    model[2].p = 0.0
    by_hand, optimiser = copy.deepcopy(model), None
    optimiser = sgd(by_hand, lr=0.05)
    losses, norms = [], []
    schedule = WarmupCosine(total=10, warmup=2)
    for step, batch in enumerate([*batches.epoch(0), *batches.epoch(1)]):
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * schedule(step)
        optimiser.zero_grad()
        loss = squared_error(by_hand, batch)
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in by_hand.parameters()]).norm()
        for p in by_hand.parameters():
            p.grad.mul_(min(1.0, 3.0 / (norm.item() + 1e-6)))
        optimiser.step()
        losses.append(loss.item())
        norms.append(norm.item())
    history = run(model, batches, epochs=2, optimiser=sgd(model), schedule=schedule, clip=3.0)
    assert max(norms) > 3.0, "the case must clip"
    assert history.loss == pytest.approx(losses, rel=1e-5)
    assert history.grad_norm == pytest.approx(norms, rel=1e-5)
    assert history.lr == pytest.approx([0.05 * schedule(step) for step in range(10)])
    assert history.step == list(range(1, 11))
    torch.testing.assert_close(weights(model), weights(by_hand))


def test_max_steps_ends_in_the_middle_of_an_epoch(model, batches):
    history = run(model, batches, epochs=None, max_steps=7)
    assert len(history.step) == 7 and len(batches) == 5


def test_epochs_end_before_max_steps(model, batches):
    assert len(run(model, batches, epochs=2, max_steps=99).step) == 10


def test_same_seed_same_run_other_seed_other_run(model, data):
    loader = DataLoader(TensorDataset(*data), batch_size=BATCH, shuffle=True)
    losses = [run(copy.deepcopy(model), loader, seed=seed).loss for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_epochs_are_shuffled_differently(model, data):
    seen = []

    def loss(model, batch):
        seen.append(batch[1])
        return squared_error(model, batch)

    loader = DataLoader(TensorDataset(*data), batch_size=N, shuffle=True, generator=torch.Generator())
    fit(model, loader, loss=loss, epochs=2, device="cpu")
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0].sort().values, seen[1].sort().values)


def test_leaves_the_model_in_evaluation_mode_and_trains_in_training_mode(model, batches):
    modes = []

    def loss(model, batch):
        modes.append(model.training)
        return squared_error(model, batch)

    fit(model, batches, loss=loss, epochs=1, validate=batches, device="cpu")
    assert modes == [True] * 5 + [False] * 5
    assert not model.training


def test_training_goes_on_in_training_mode_after_validation(model, batches):
    modes = []

    def loss(model, batch):
        modes.append(model.training)
        return squared_error(model, batch)

    fit(model, batches, loss=loss, epochs=1, validate=lambda m: {"loss": 1.0}, validate_every=2, device="cpu")
    assert modes == [True] * 5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_computes_in_half_precision_and_learns(model, batches, precision):
    kinds = set()
    model[0].register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    history = run(model, batches, epochs=12, precision=precision, optimiser=sgd(model))
    assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert history.loss[-1] < 0.2 * history.loss[0]


@pytest.fixture
def small_batches(data):
    """Targets so small that no fp16 gradient overflows at the first loss scale, 65536."""
    return TensorBatches(data[0], data[1] / 100, batch_size=BATCH, seed=1)


def test_fp16_gradients_are_those_of_fp32(model, small_batches):
    """The loss is scaled up before the backward pass and the gradients down before clipping."""
    model[2].p = 0.0
    batches = small_batches
    norms = {
        p: run(copy.deepcopy(model), batches, max_steps=1, precision=p).grad_norm[0] for p in ("32", "fp16")
    }
    assert norms["fp16"] == pytest.approx(norms["32"], rel=1e-2)


# --- validation and stopping ---------------------------------------------------------------------


def scripted(values):
    """A validation function that reports the given losses one after the other."""
    left = iter(values)
    return lambda model: {"loss": next(left), "score": 0.5}


def test_early_stopping_restores_the_best_weights(model, batches):
    kept = []

    def validate(model):
        kept.append(weights(model))
        return {"loss": [5.0, 2.0, 3.0, math.nan, 2.0, 0.1][len(kept) - 1]}

    history = run(model, batches, epochs=50, validate=validate, patience=3)
    assert len(kept) == 5, "three validations without improvement, not-a-number and a tie among them"
    assert history.best == {"step": 10, "loss": 2.0}
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, kept[1][name]) and not torch.equal(tensor, kept[-1][name])


def test_mode_max_prefers_larger_values(model, batches):
    stopping = EarlyStopping(patience=2, monitor="score", mode="max")
    for step, value in enumerate([0.1, 0.4, 0.3, 0.4], start=1):
        stopping.update({"score": value}, step, model)
    assert (stopping.best, stopping.best_step, stopping.stopped) == (0.4, 2, True)


def test_validate_every_counts_steps_and_validates_at_the_end(model, batches):
    history = run(model, batches, epochs=2, validate=scripted([3.0, 2.0, 1.0, 0.5]), validate_every=3)
    assert [entry["step"] for entry in history.validation] == [3, 6, 9, 10]
    assert history.metric("loss") == [3.0, 2.0, 1.0, 0.5]


def test_evaluate_weighs_batches_by_their_rows(model, data):
    model.eval()
    whole = squared_error(model, data).item()
    rows = [tuple(part[i : i + 4] for part in data) for i in range(0, N, 4)]  # the last has 2 rows
    model.train()
    assert evaluate(model, rows, loss=squared_error)["loss"] == pytest.approx(whole, rel=1e-5)
    assert model.training, "evaluate must put the mode back"


def test_patience_without_validation_is_refused(model, batches):
    with pytest.raises(ValueError, match="patience needs validate"):
        run(model, batches, patience=2)


def test_unknown_metric_is_named(model, batches):
    with pytest.raises(ValueError, match=r"'f1'.*loss, score"):
        run(model, batches, validate=scripted([1.0]), patience=1, monitor="f1")


# --- what goes wrong -----------------------------------------------------------------------------


def broken_at(step, value):
    calls = []

    def loss(model, batch):
        calls.append(1)
        return squared_error(model, batch) * (value if len(calls) == step else 1.0)

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_stops_before_the_step(model, batches, value):
    twin = copy.deepcopy(model)
    run(twin, batches, epochs=None, max_steps=2, optimiser=sgd(twin))
    with pytest.raises(NonFiniteLoss, match=r"step 3 \(epoch 0, batch 2\): loss (nan|inf)"):
        fit(model, batches, loss=broken_at(3, value), epochs=1, optimiser=sgd(model), device="cpu")
    torch.testing.assert_close(weights(model), weights(twin), rtol=0, atol=0)


def test_non_finite_gradient_of_a_finite_loss_stops_too(model, batches):
    def loss(model, batch):
        return squared_error(model, batch) + (model[0].bias * 0).abs().sqrt().sum()  # 0, with gradient nan

    with pytest.raises(NonFiniteLoss, match="gradient norm nan"):
        fit(model, batches, loss=loss, epochs=1, device="cpu")


def test_skip_leaves_out_one_step(model, batches):
    history = fit(model, batches, loss=broken_at(3, math.nan), epochs=1, non_finite="skip", device="cpu")
    assert math.isnan(history.loss[2]) and len(history.loss) == 5
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_skip_with_a_loss_scaler(model, batches):
    loss = broken_at(3, math.nan)
    history = fit(model, batches, loss=loss, epochs=1, non_finite="skip", precision="fp16", device="cpu")
    assert math.isnan(history.loss[2]) and math.isfinite(history.loss[4])
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("empty", [[], iter([])])
def test_empty_batches_are_refused(model, empty):
    with pytest.raises(ValueError, match="at least one batch"):
        run(model, empty)


def test_a_generator_can_be_read_only_once(model, data):
    once = (tuple(data) for _ in range(2))
    with pytest.raises(ValueError, match=r"nothing in epoch 1.*read only once"):
        run(model, once)


def test_empty_validation_is_refused(model, batches):
    with pytest.raises(ValueError, match="validation batches are empty"):
        run(model, batches, validate=[])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": None}, "epochs or max_steps"),
        ({"epochs": 0}, "epochs of at least 1, got 0"),
        ({"mode": "smallest"}, "'min' or 'max', got 'smallest'"),
        ({"clip": 0.0}, "above 0; got 0.0"),
        ({"non_finite": "ignore"}, "'raise' or 'skip', got 'ignore'"),
        ({"precision": "fp8"}, "32, bf16, fp16, got 'fp8'"),
        ({"engine": SingleDevice("cpu"), "precision": "bf16"}, "belong to the engine"),
    ],
)
def test_contradicting_arguments_are_refused(model, batches, options, message):
    with pytest.raises(ValueError, match=message):
        run(model, batches, **options)


# --- checkpoints (exact resume after a kill: test_training_resume.py) -------------------------------


def test_a_finished_run_is_not_trained_again(model, batches, tmp_path):
    path = tmp_path / "deep" / "run.pt"
    first = run(model, batches, checkpoint=path, validate=scripted([1, 2, 3, 4]), patience=2)
    trained = weights(model)
    torch.manual_seed(0)
    again = run(model, batches, checkpoint=path, validate=scripted([]), patience=2)
    assert again == first
    torch.testing.assert_close(weights(model), trained, rtol=0, atol=0)


def test_more_epochs_go_on_where_a_run_ended(model, batches, tmp_path):
    twin = copy.deepcopy(model)
    run(model, batches, checkpoint=tmp_path / "run.pt", epochs=1)
    longer = run(model, batches, checkpoint=tmp_path / "run.pt", epochs=3)
    whole = run(twin, batches, epochs=3)
    assert longer.loss == whole.loss
    torch.testing.assert_close(weights(model), weights(twin), rtol=0, atol=0)


def test_early_stopping_goes_on_counting_and_keeps_the_best_weights_over_a_resume(model, batches, tmp_path):
    path, torn = tmp_path / "run.pt", []

    def validate(model):
        torn.append(weights(model))
        if len(torn) == 4:
            raise KeyboardInterrupt
        return {"loss": [3.0, 1.0, 2.0, None, 2.5, 0.5][len(torn) - 1]}

    with pytest.raises(KeyboardInterrupt):
        run(model, batches, epochs=20, validate=validate, patience=2, checkpoint=path)
    history = run(model, batches, epochs=20, validate=validate, patience=2, checkpoint=path)
    assert history.metric("loss") == [3.0, 1.0, 2.0, 2.5], (
        "one validation without improvement was before the stop"
    )
    assert history.best == {"step": 10, "loss": 1.0}
    torch.testing.assert_close(weights(model), torn[1], rtol=0, atol=0)


def test_resume_false_starts_anew(model, batches, tmp_path):
    run(model, batches, checkpoint=tmp_path / "run.pt", epochs=2)
    history = run(model, batches, checkpoint=tmp_path / "run.pt", epochs=1, resume=False)
    assert len(history.step) == 5


def test_fp16_resume_keeps_the_loss_scale(model, batches, tmp_path):
    """The first steps overflow, so the scale has come down by the time of the checkpoint."""
    twin, path = copy.deepcopy(model), tmp_path / "run.pt"
    first = run(model, batches, epochs=1, checkpoint=path, precision="fp16")
    assert not math.isfinite(first.grad_norm[0])
    assert torch.load(path)["scaler"]["scale"] < 65536
    resumed = run(model, batches, epochs=2, checkpoint=path, precision="fp16")
    whole = run(twin, batches, epochs=2, precision="fp16")
    assert resumed.loss == whole.loss


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clip": 2.0}, "clip: checkpoint 1.0, now 2.0"),
        ({"seed": 5}, "seed: checkpoint 0, now 5"),
        ({"precision": "bf16"}, "precision: checkpoint '32', now 'bf16'"),
        ({"schedule": WarmupCosine(total=50)}, "schedule"),
        ({"lr": 0.1}, "optimiser"),
        (
            {"batches": TensorBatches(torch.zeros(12, D), torch.zeros(12), batch_size=BATCH)},
            "batches per epoch",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(model, batches, tmp_path, change, named):
    path = tmp_path / "run.pt"
    run(model, batches, epochs=1, clip=1.0, checkpoint=path, optimiser=sgd(model))
    before = weights(model)
    options = {"clip": 1.0, "optimiser": sgd(model, change.pop("lr", 0.05)), "batches": batches, **change}
    with pytest.raises(CheckpointMismatch, match="belongs to another run") as refusal:
        run(model, options.pop("batches"), checkpoint=path, **options)
    assert named in str(refusal.value)
    torch.testing.assert_close(weights(model), before, rtol=0, atol=0)


def test_a_checkpoint_of_another_model_is_refused(model, batches, tmp_path):
    run(model, batches, checkpoint=tmp_path / "run.pt")
    with pytest.raises(CheckpointMismatch, match="shapes"):
        run(nn.Sequential(nn.Linear(D, 4), nn.Linear(4, 1)), batches, checkpoint=tmp_path / "run.pt")


def test_other_data_of_the_same_size_is_refused(model, data, tmp_path):
    """In the middle of an epoch the batch before the stop is compared."""
    path = tmp_path / "run.pt"
    inputs, targets = data
    run(model, TensorBatches(inputs, targets, batch_size=BATCH), max_steps=3, checkpoint=path)
    other = TensorBatches(inputs + 1, targets, batch_size=BATCH)
    with pytest.raises(CheckpointMismatch, match="batch 2 of epoch 0 is not the one"):
        run(model, other, max_steps=9, checkpoint=path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "foreign"])
def test_a_damaged_checkpoint_is_refused(model, batches, tmp_path, damage):
    path = tmp_path / "run.pt"
    run(model, batches, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    files = {
        "truncated": content[: len(content) // 3],
        "flipped": content,
        "empty": b"",
        "text": b"not torch" * 9,
    }
    if damage == "foreign":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(bytes(files[damage]))
    with pytest.raises(CheckpointCorrupt, match="cannot be resumed from") as refusal:
        run(model, batches, checkpoint=path)
    assert "resume=False" in str(refusal.value)


def test_every_flipped_tensor_bit_is_noticed(model, batches, tmp_path):
    """torch.load alone would read a changed weight without a word."""
    path = tmp_path / "run.pt"
    run(model, batches, checkpoint=path)
    content = path.read_bytes()
    weight = model[0].weight.detach().numpy().tobytes()
    position = content.find(weight)
    assert position > 0
    path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    assert not torch.equal(torch.load(path)["model"]["0.weight"], model[0].weight)
    with pytest.raises(CheckpointCorrupt, match="check sum"):
        run(model, batches, checkpoint=path)


def test_a_crash_while_writing_leaves_the_old_checkpoint(model, batches, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    run(model, batches, epochs=1, checkpoint=path)
    before = path.read_bytes()

    def half_written(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        run(model, batches, epochs=2, checkpoint=path)
    assert path.read_bytes() == before


# --- history and reports -------------------------------------------------------------------------


def test_history_survives_json(model, batches):
    history = run(model, batches, validate=batches, patience=5)
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history
    assert history.seconds == sorted(history.seconds) and history.seconds[0] > 0


def test_plot_draws_training_and_validation_and_describes_them(model, batches):
    history = run(model, batches, validate=batches)
    shown = history.plot()
    assert f"from {history.loss[0]:.3g}" in shown.alt and "validation loss" in shown.alt
    assert "training" in shown.svg
    assert "lowest" in history.plot("grad_norm").alt
    assert history.plot(alt="My own words.").alt == "My own words."
    with pytest.raises(ValueError, match="'accuracy'"):
        history.plot("accuracy")


def test_tensorboard_events(model, batches, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = run(model, batches, validate=batches, log_dir=tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in logged] == history.step
    assert [value for _, value in logged] == pytest.approx(history.loss)
    assert {"train/grad_norm", "train/lr"} <= set(events.Tags()["scalars"])
    assert [e.value for e in events.Scalars("validation/loss")] == pytest.approx(history.metric("loss"))


def test_progress_bar_goes_to_stderr_and_only_where_it_is_watched(model, batches, capsys, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # no terminal
    assert not watched()
    run(model, batches)
    assert sys.stderr.getvalue() == ""
    run(model, batches, progress=True)
    assert "15/15" in sys.stderr.getvalue() and "loss" in sys.stderr.getvalue()
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    assert watched()


# --- parts ---------------------------------------------------------------------------------------


def test_warmup_cosine():
    schedule = WarmupCosine(total=20, warmup=4, floor=0.1)
    assert [schedule(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(4) == 1.0
    assert schedule(12) == pytest.approx((1.0 + 0.1) / 2)
    assert schedule(20) == schedule(99) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="warmup=5, total=5"):
        WarmupCosine(total=5, warmup=5)


Pair = namedtuple("Pair", ["first", "second"])


@dataclass(frozen=True)
class Record:
    tokens: torch.Tensor
    name: str
    labels: torch.Tensor | None = None


def test_map_tensors_keeps_every_container():
    one = torch.ones(2)
    batch = (one, [one, 3], {"a": one, "b": None}, Pair(one, "x"), Record(one, "n"))
    doubled = map_tensors(lambda t: t * 2, batch)
    assert doubled[0].tolist() == [2, 2] and doubled[1][1] == 3
    assert doubled[2]["a"].tolist() == [2, 2] and doubled[2]["b"] is None
    assert isinstance(doubled[3], Pair) and doubled[3].first.tolist() == [2, 2] and doubled[3].second == "x"
    assert (
        isinstance(doubled[4], Record) and doubled[4].tokens.tolist() == [2, 2] and doubled[4].labels is None
    )


@dataclass
class Ranked:
    global_rank: int
    world_size: int


def test_shares_of_a_batch_are_the_batch_and_weights_restore_the_mean():
    batch = Record(torch.arange(7.0), "seven rows")
    shares = [share_of_batch(batch, Ranked(rank, 3)) for rank in range(3)]
    assert torch.cat([share.tokens for share, _ in shares]).tolist() == batch.tokens.tolist()
    mean_over_processes = sum(weight * share.tokens.mean() for share, weight in shares) / 3
    assert mean_over_processes == pytest.approx(batch.tokens.mean().item())
    with pytest.raises(ValueError, match="batch of 2 cannot be shared by 3"):
        share_of_batch(torch.zeros(2, 4), Ranked(0, 3))
