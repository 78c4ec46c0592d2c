"""Probes against analytic truths: linear recurrences, open gates, tasks solved by an independent rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from seqcourse import probes
from seqcourse.probes import ADDING, COPY, DELAYED_RECALL, TASKS, Budget
from seqcourse.recurrent import GRU, LSTM, RNN

B, T, D, H = 3, 7, 5, 4


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear_rnn(radius: float) -> RNN:
    """A ReLU RNN that stays in its linear range: W_hh = radius * permutation, large positive bias."""
    rnn = RNN(D, H, nonlinearity="relu").double()
    cell = rnn.cells[0]
    with torch.no_grad():
        cell.weight_hh.copy_(radius * torch.eye(H, dtype=torch.float64)[torch.tensor([2, 0, 3, 1])])
        cell.bias_ih.fill_(100.0)
    return rnn


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.3])
def test_gradient_of_a_linear_rnn_is_the_radius_to_the_power_of_the_lag(x, radius):
    norms = probes.gradient_norms_by_lag(linear_rnn(radius), x)
    expected = radius ** torch.arange(T, dtype=torch.float64)
    torch.testing.assert_close(norms / norms[0], expected)
    assert norms[0].item() == pytest.approx(math.sqrt(H))  # the loss is the sum of H outputs


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [True, False])
def test_gradient_norms_of_torch_layers_agree_with_autograd_on_the_initial_state(x, kind, batch_first):
    torch.manual_seed(0)
    layer = kind(D, H, num_layers=2, batch_first=batch_first).double()
    norms = probes.gradient_norms_by_lag(layer, x if batch_first else x.transpose(0, 1))
    # Independent: the state after T - 3 steps is the initial state of the last 3.
    steps = x if batch_first else x.transpose(0, 1)
    first, last = (steps[:, : T - 3], steps[:, T - 3 :]) if batch_first else (steps[: T - 3], steps[T - 3 :])
    state = layer(first)[1]
    hidden = (state[0] if kind is nn.LSTM else state).detach().requires_grad_()
    output, _ = layer(last, (hidden, state[1].detach()) if kind is nn.LSTM else hidden)
    loss = (output[:, -1] if batch_first else output[-1]).sum()
    expected = torch.autograd.grad(loss, hidden)[0][1].norm(dim=1).mean()  # layer 1
    assert norms[3].item() == pytest.approx(expected.item(), rel=1e-9)


def test_gradient_norms_of_a_whole_model_reach_its_recurrent_layer_through_its_own_loss(x):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = linear_rnn(0.5), nn.Linear(H, 2).double()

        def forward(self, x):
            return self.head(self.layer(x)[0])

    model = Tagger()
    norms = probes.gradient_norms_by_lag(model, x, loss=lambda logits: logits[:, -1, 0].sum())
    assert norms[0].item() == pytest.approx(model.head.weight[0].norm().item())
    assert norms[2].item() == pytest.approx(0.25 * norms[0].item())
    assert not model.layer._forward_hooks  # the model is left as it was


def test_gradient_norms_say_what_is_wrong(x):
    with pytest.raises(ValueError, match="no recurrent layer"):
        probes.gradient_norms_by_lag(nn.Linear(D, H).double(), x)
    with pytest.raises(ValueError, match="no state 'cell_state'"):
        probes.gradient_norms_by_lag(GRU(D, H).double(), x, state_name="cell_state")
    with pytest.raises(ValueError, match="does not depend"):
        probes.gradient_norms_by_lag(
            GRU(D, H).double(), x, loss=lambda output: torch.ones(1, requires_grad=True)
        )
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 5, 2]), batch_first=True)
    with pytest.raises(ValueError, match="not on packed"):
        probes.gradient_norms_by_lag(nn.LSTM(D, H, batch_first=True).double(), packed)


def lstm_with_gates(input_bias: float, forget_bias: float) -> LSTM:
    torch.manual_seed(0)
    lstm = LSTM(D, H).double()
    with torch.no_grad():
        lstm.cells[0].bias_ih[:H] = input_bias
        lstm.cells[0].bias_ih[H : 2 * H] = forget_bias
    return lstm


def test_cell_state_carries_its_gradient_unchanged_if_it_forgets_nothing_and_takes_nothing_in(x):
    lstm = lstm_with_gates(-1000.0, 1000.0)
    jacobian = probes.cell_state_jacobian(lstm, x, lag=T - 1)
    torch.testing.assert_close(jacobian, torch.eye(H, dtype=torch.float64).expand(B, H, H))
    torch.testing.assert_close(probes.cell_state_gradients(lstm, x), torch.ones(T, dtype=torch.float64))
    torch.testing.assert_close(probes.forget_gate_products(lstm, x), torch.ones(T, dtype=torch.float64))


def test_cell_state_gradient_falls_with_the_forget_gate_alone_if_the_input_gate_is_shut(x):
    lstm = lstm_with_gates(-1000.0, 0.0)
    with torch.no_grad():  # the forget gate is 0.5 at every step
        for parameter in (lstm.cells[0].weight_ih, lstm.cells[0].weight_hh, lstm.cells[0].bias_hh):
            parameter.zero_()
    expected = 0.5 ** torch.arange(T, dtype=torch.float64)
    torch.testing.assert_close(probes.cell_state_gradients(lstm, x), expected)
    torch.testing.assert_close(probes.forget_gate_products(lstm, x), expected)


def test_cell_state_jacobian_is_that_of_autograd(x):
    torch.manual_seed(0)
    layer = nn.LSTM(D, H, batch_first=True).double()
    jacobian = probes.cell_state_jacobian(layer, x, lag=2)
    hidden, cell = (state.detach() for state in layer(x[:, : T - 2])[1])
    # The gradient also goes through h_t = o_t tanh(c_t), with o_t held: vary h_t along with c_t.

    def last_cell_state(cell_state, b):
        h_t = (
            hidden[:, b : b + 1] / cell[:, b : b + 1].tanh() * cell_state[None, None].tanh()
        )  # o_t tanh(c_t)
        return layer(x[b : b + 1, T - 2 :], (h_t, cell_state[None, None]))[1][1][0, 0]

    for b in range(B):
        expected = torch.autograd.functional.jacobian(lambda c, b=b: last_cell_state(c, b), cell[0, b])
        torch.testing.assert_close(jacobian[b], expected)


def test_state_gradients_of_a_linear_rnn_are_the_radius_to_the_power_of_the_lag(x):
    expected = 0.5 ** torch.arange(T, dtype=torch.float64)
    torch.testing.assert_close(probes.state_gradients(linear_rnn(0.5), x), expected)


def test_cell_state_probes_say_what_is_wrong(x):
    with pytest.raises(ValueError, match="no state 'cell_state'"):
        probes.cell_state_gradients(RNN(D, H).double(), x)
    with pytest.raises(ValueError, match="no forget gate"):
        probes.forget_gate_products(GRU(D, H).double(), x)
    with pytest.raises(ValueError, match="lag must be 0 to 6"):
        probes.cell_state_jacobian(LSTM(D, H).double(), x, lag=T)


def test_spectral_radius():
    rotation = torch.tensor([[0.0, -0.7], [0.7, 0.0]])  # eigenvalues +-0.7i
    assert probes.spectral_radius(rotation) == pytest.approx(0.7)
    assert probes.spectral_radius(torch.tensor([[0.5, 100.0], [0.0, -0.9]])) == pytest.approx(0.9)
    scaled = probes.set_spectral_radius_(torch.randn(H, H, generator=torch.Generator().manual_seed(0)), 1.25)
    assert probes.spectral_radius(scaled) == pytest.approx(1.25)
    with pytest.raises(ValueError, match=r"\(8, 2\)"):
        probes.spectral_radius(torch.zeros(8, 2))
    with pytest.raises(ValueError, match="zero"):
        probes.set_spectral_radius_(torch.zeros(2, 2), 1.0)


def test_gate_saturation_counts_closed_and_open_gates(x):
    saturation = probes.gate_saturation(lstm_with_gates(-1000.0, 1000.0), x)
    assert saturation["input_gate"] == (1.0, 0.0)
    assert saturation["forget_gate"] == (0.0, 1.0)
    assert saturation["output_gate"].total == 0.0
    assert set(saturation) == {"input_gate", "forget_gate", "candidate", "output_gate"}


def test_gate_saturation_of_a_plain_rnn_is_that_of_its_tanh(x):
    rnn = RNN(D, H).double()
    trace = rnn.trace(x).states[0]["hidden_state"]
    expected_closed = (trace < -0.5).double().mean().item()  # (h + 1) / 2 < 0.25
    saturation = probes.gate_saturation(rnn, x, threshold=0.25)["hidden_state"]
    assert saturation.closed == pytest.approx(expected_closed)
    assert 0 < saturation.total < 1
    with pytest.raises(ValueError, match=r"0 and 0\.5"):
        probes.gate_saturation(rnn, x, threshold=0.7)


# ------------------------------------------------------------------------------------------------- tasks


def answer_recall(row: torch.Tensor) -> list[int]:
    return [row[0].tolist().index(1.0)]


def answer_copy(row: torch.Tensor) -> list[int]:
    symbols = [step.tolist().index(1.0) for step in row]
    return [symbol for symbol in symbols if symbol < 8]


def answer_adding(row: torch.Tensor) -> list[float]:
    return [sum(number for number, mark in row.tolist() if mark == 1.0)]


ANSWERS = {"delayed recall": answer_recall, "copy": answer_copy, "adding": answer_adding}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("delay", [5, 12])
def test_targets_are_what_the_rule_says(name, delay):
    task = TASKS[name]
    inputs, target = task.make(delay, 16, torch.Generator().manual_seed(3))
    assert inputs.shape == (16, delay + task.answer_steps, task.input_size)
    assert target.shape == (16, task.answer_steps)
    expected = torch.tensor([ANSWERS[name](row) for row in inputs], dtype=target.dtype)
    torch.testing.assert_close(target, expected)
    assert len(set(target.flatten().tolist())) > 4  # the targets differ


def test_tasks_repeat_with_the_seed_and_differ_without():
    for task in TASKS.values():
        first, again, other = (task.make(9, 4, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_adding_marks_one_number_in_each_half():
    marks = probes.adding_task(20, 50, torch.Generator().manual_seed(0))[0][:, :, 1]
    assert torch.equal(marks[:, :10].sum(1), torch.ones(50))
    assert torch.equal(marks[:, 10:].sum(1), torch.ones(50))


def test_tasks_refuse_a_delay_that_is_too_short():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="at least 1"):
        probes.delayed_recall(0, 2, generator)
    with pytest.raises(ValueError, match="at least 5"):
        probes.copy_task(4, 2, generator)


# ----------------------------------------------------------------------------------------------- horizon


class Oracle(nn.Module):
    """Solves every task by looking back; nothing to train."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, inputs):
        answers = torch.tensor([ANSWERS[self.task.name](row) for row in inputs])
        output = torch.zeros(*inputs.shape[:2], self.task.output_size)
        if self.task.is_regression:
            output[:, -1] = answers
        else:
            steps = range(-self.task.answer_steps, 0)
            for step, answer in zip(steps, answers.unbind(1), strict=True):
                output[:, step] = nn.functional.one_hot(answer, self.task.output_size).float()
        return output


@pytest.mark.parametrize("name", TASKS)
def test_an_oracle_reaches_the_longest_delay_and_a_model_without_memory_none(name):
    task = TASKS[name]
    budget = Budget(steps=60, check_every=20, test_size=64)
    perfect = probes.memory_horizon(
        lambda task, delay: Oracle(task), task, (6, 9), (0, 1), budget, name="oracle"
    )
    blind = probes.memory_horizon(
        lambda task, delay: nn.Linear(task.input_size, task.output_size), task, (6, 9), (0, 1), budget
    )
    assert perfect[0].values == (9.0, 9.0)
    assert perfect[0].protocol["longest_tried"] == 9
    assert blind[0].values == (0.0, 0.0)
    assert [record.metric for record in blind[1:]] == [task.metric] * 2
    assert perfect[0].generated  # the data of a memory task are made by a program, and say so


def test_an_rnn_learns_a_short_delay_and_early_stopping_saves_steps():
    torch.manual_seed(0)
    model = probes.SequenceModel(RNN(17, 32), 8)
    outcome = probes.train_on_task(model, DELAYED_RECALL, 2, budget=Budget(steps=600, check_every=20))
    assert outcome.solved and outcome.score >= 0.95
    assert outcome.steps < 600
    assert len(outcome.losses) == outcome.steps
    assert outcome.losses[-1] < 0.9 * outcome.losses[0]


def test_memory_horizon_leaves_the_global_generator_alone_and_repeats():
    def build(task, delay):
        return probes.SequenceModel(RNN(task.input_size, 8), task.output_size)

    budget = Budget(steps=10, check_every=5, test_size=32)
    before = torch.random.get_rng_state()
    first, again = (probes.memory_horizon(build, COPY, (5,), (0, 1), budget) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first[1].values == again[1].values
    assert first[1].values[0] != first[1].values[1]  # two seeds are two runs


def test_score_of_the_tasks():
    output = torch.zeros(2, 3, 8)
    output[0, -1, 4] = 1.0
    assert DELAYED_RECALL.score(output, torch.tensor([[4], [5]])) == 0.5
    assert DELAYED_RECALL.is_solved(0.95) and not DELAYED_RECALL.is_solved(0.94)
    assert ADDING.score(torch.full((2, 3, 1), 1.0), torch.tensor([[1.5], [1.0]])) == pytest.approx(0.125)
    assert ADDING.is_solved(0.009) and not ADDING.is_solved(0.01)


def test_a_budget_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        probes.train_on_task(nn.Linear(17, 8), DELAYED_RECALL, 3, budget=Budget(steps=0))


# ---------------------------------------------------------------------------------------------- clipping


def test_loss_spikes_are_counted():
    calm = [1.0] * 30
    assert probes.loss_spikes(calm) == 0
    assert probes.loss_spikes([*calm, 2.5, 1.0, 1.9]) == 1
    assert probes.loss_spikes([*calm, math.nan, math.inf, 1.0]) == 2


def test_clipping_keeps_a_recurrence_alive_that_explodes_without():
    def build(task, delay):
        model = probes.SequenceModel(RNN(task.input_size, 32), task.output_size)
        probes.set_spectral_radius_(model.recurrent.cells[0].weight_hh.data, 1.2)
        return model

    effect = probes.clipping_effect(build, ADDING, 50, clip=1.0)
    assert effect.without.losses[0] == effect.with_clip.losses[0]  # same weights, same first batch
    assert max(effect.without.gradient_norms) > 100
    assert effect.with_clip.steps == effect.steps == 200
    assert effect.spikes[0] > 50 and effect.spikes[1] == 0


def test_steps_lost_to_a_divergence_count_as_spikes():
    calm = probes.Outcome(0.1, False, 30, [1.0] * 30, [1.0] * 30)
    diverged = probes.Outcome(0.1, False, 25, [1.0] * 25, [1.0] * 25)
    assert probes.ClippingEffect(1.0, 30, diverged, calm).spikes == (5, 0)


def test_clipping_needs_a_positive_norm_and_a_known_optimiser():
    def build(task, delay):
        return nn.Linear(task.input_size, task.output_size)

    with pytest.raises(ValueError, match="positive"):
        probes.clipping_effect(build, clip=0.0)
    with pytest.raises(ValueError, match="'adagrad'"):
        probes.clipping_effect(build, budget=Budget(optimiser="adagrad"))
