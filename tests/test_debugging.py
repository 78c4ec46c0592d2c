"""The debugging kit: each check finds the fault it is for, passes a healthy model, and changes nothing."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse import debugging
from seqcourse.recurrent import LSTM

B, T, D, H, K = 3, 7, 5, 4, 6


class Healthy(nn.Module):
    """Project, read, take the mean over real steps, normalise, drop out, classify."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.recurrent = nn.Linear(D, H), LSTM(H, H)
        self.norm, self.dropout, self.head = nn.LayerNorm(H), nn.Dropout(0.5), nn.Linear(H, K)

    def project(self, x: Tensor) -> Tensor:
        return self.projection(x)

    def pool(self, output: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(output.shape[1]) < lengths[:, None]  # (B, T)
        return (output * mask[:, :, None]).sum(1) / lengths[:, None]

    def drop(self, pooled: Tensor) -> Tensor:
        return self.dropout(pooled)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        output, _ = self.recurrent(self.project(x))
        return self.head(self.drop(self.norm(self.pool(output, lengths))))


class Detached(Healthy):
    def project(self, x: Tensor) -> Tensor:
        return super().project(x).detach()


class IgnoresPadding(Healthy):
    def pool(self, output: Tensor, lengths: Tensor) -> Tensor:
        return output.mean(1)


class AlwaysDrops(Healthy):
    def drop(self, pooled: Tensor) -> Tensor:
        return F.dropout(pooled, 0.5)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(B, T, D, generator=generator)
    return x, torch.tensor([4, 7, 6]), torch.tensor([2, 0, 5])


def make(kind: type[Healthy] = Healthy) -> Healthy:
    torch.manual_seed(0)
    return kind()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, lengths, labels = batch
    return F.cross_entropy(model(x, lengths), labels)


# --- gradient flow ----------------------------------------------------------------------------------------


def test_gradient_flow_is_that_of_backward_and_leaves_no_trace(batch):
    model = make().double().eval()
    batch = batch[0].double(), *batch[1:]
    value = loss(model, batch)
    flow = debugging.gradient_flow(model, value)
    assert all(parameter.grad is None for parameter in model.parameters())
    value.backward()
    assert list(flow) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        expected = parameter.grad.norm().item() / math.sqrt(parameter.numel())
        assert flow[name].gradient == pytest.approx(expected, rel=1e-12)
        if parameter.norm() > 0:  # biases start at zero: see below
            ratio = parameter.grad.norm().item() / parameter.norm().item()
            assert flow[name].ratio == pytest.approx(ratio, rel=1e-12)


def test_gradient_flow_finds_where_the_gradient_stops(batch):
    healthy, broken = (debugging.gradient_flow(m, loss(m, batch)) for m in (make(), make(Detached)))
    assert all(flow.gradient > 0 for flow in healthy.values())
    stopped = [name for name, flow in broken.items() if flow.gradient == 0]
    assert stopped == ["projection.weight", "projection.bias"]


def test_frozen_parameters_get_nothing_and_a_frozen_model_is_refused(batch):
    model = make()
    model.head.requires_grad_(False)
    assert debugging.gradient_flow(model, loss(model, batch))["head.weight"].gradient == 0
    with pytest.raises(ValueError, match="frozen"):
        debugging.gradient_flow(model.requires_grad_(False), torch.tensor(1.0))


def test_ratio_of_zero_weights_is_infinite_only_if_a_gradient_arrives():
    assert debugging._flow(torch.zeros(2), torch.ones(2)).ratio == math.inf
    assert debugging._flow(torch.zeros(2), None).ratio == 0


# --- scales -----------------------------------------------------------------------------------------------


def test_input_scale_by_feature_without_padding():
    x = torch.stack([torch.arange(8.0).view(2, 4), torch.full((2, 4), 7.0)], dim=2)  # (B, T, D) = (2, 4, 2)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    first, second = debugging.input_scale(x, mask).values()
    assert first.mean == 2.5 and (first.lowest, first.highest) == (0, 5)
    assert first.deviation == pytest.approx(torch.arange(6.0).std(correction=0).item())
    assert (second.mean, second.deviation) == (7, 0)
    assert debugging.input_scale(x)["feature 0"].highest == 7


def test_what_is_not_finite_is_counted():
    scale = debugging.scale_of(torch.tensor([1.0, 3.0, math.nan, math.inf]))
    assert (scale.mean, scale.not_finite) == (2, 0.5)
    with pytest.raises(ValueError, match="at least one finite number among 2"):
        debugging.scale_of(torch.tensor([math.nan, math.inf]))


def test_input_scale_names_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(3, 7\)"):
        debugging.input_scale(torch.zeros(3, 7))
    with pytest.raises(ValueError, match=r"\[\(3, 7, 5\), \(3, 6\)\]"):
        debugging.input_scale(torch.zeros(3, 7, 5), torch.ones(3, 6, dtype=torch.bool))


def test_activation_scale_follows_the_layers():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(3))).double()
    for layer in model:
        nn.init.normal_(layer.weight, std=3 / 8)  # each layer triples the deviation
    found = debugging.activation_scale(model, torch.randn(50, 64, dtype=torch.float64))
    assert list(found) == ["0", "1", "2"]
    growth = [after.deviation / before.deviation for before, after in pairwise(found.values())]
    assert all(2.5 < factor < 3.5 for factor in growth)
    assert not any(layer._forward_hooks for layer in model)


def test_activation_scale_reads_modules_that_return_tuples(batch):
    found = debugging.activation_scale(nn.Sequential(nn.LSTM(D, H, batch_first=True)), batch[0])
    assert found["0"].highest < 1


# --- clipping, dropout, neighbours ------------------------------------------------------------------------


def test_clipping_use():
    assert debugging.clipping_use([0.5, 1.0, 2.0, 4.0], 1.0) == (0.5, 1.5, 4.0)
    assert debugging.clipping_use([0.5, math.nan], 1.0).share_clipped == 0.5
    for norms, clip in (([], 1.0), ([1.0], 0.0)):
        with pytest.raises(ValueError, match="positive limit"):
            debugging.clipping_use(norms, clip)


def test_noise_in_training_only(batch):
    model = make()
    assert debugging.noise(model.train(), *batch[:2]) > 0.01
    assert debugging.noise(model.eval(), *batch[:2]) == 0
    assert debugging.noise(make(AlwaysDrops).eval(), *batch[:2]) > 0.01


def test_an_example_does_not_depend_on_its_company_unless_padding_or_the_batch_gets_in(batch):
    x, lengths, _ = batch
    assert debugging.batch_dependence(make(), x, lengths, length=4) < 1e-5
    assert debugging.batch_dependence(make(IgnoresPadding), x, lengths, length=4) > 0.01
    by_batch = make()
    by_batch.norm = nn.BatchNorm1d(H, track_running_stats=False)
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # torch's own words
        debugging.batch_dependence(by_batch.train(), x, lengths)
    assert by_batch.training and by_batch.norm.training  # as they were
    by_batch.norm = InBatch()
    assert debugging.batch_dependence(by_batch, x, lengths) > 0.01


class InBatch(nn.Module):
    """Subtracts the mean of the batch, as batch normalisation does in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_one_example_has_no_company(batch):
    with pytest.raises(ValueError, match="at least two"):
        debugging.batch_dependence(make(), batch[0][:1], batch[1][:1])


# --- one batch --------------------------------------------------------------------------------------------


def test_a_healthy_model_learns_one_batch_by_heart_and_is_left_alone(batch):
    model = make()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    result = debugging.overfit_one_batch(model, lambda m: loss(m, batch), steps=150)
    assert result.before == pytest.approx(math.log(K), abs=0.7) and result.after < 0.1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and model.training


def test_a_model_that_cannot_learn_does_not(batch):
    model = make()
    model.requires_grad_(False)
    model.projection.requires_grad_(True)
    nn.init.zeros_(model.head.weight)  # nothing comes back through it
    result = debugging.overfit_one_batch(model, lambda m: loss(m, batch), steps=30)
    assert result.after == pytest.approx(result.before)
    with pytest.raises(ValueError, match="at least one step"):
        debugging.overfit_one_batch(model, lambda m: loss(m, batch), steps=0)


def test_as_table():
    table = debugging.as_table({"a": debugging.OneBatch(2.0, 0.5)}, "Loss")
    assert table.columns == ("where", "before", "after") and table.rows == (("a", "2", "0.5"),)
    with pytest.raises(ValueError, match="nothing to show"):
        debugging.as_table({}, "Loss")
