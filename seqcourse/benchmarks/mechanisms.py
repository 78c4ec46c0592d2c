"""Mechanisms, measured: gradients through time, clipping, the cell state, saturation (claims M01 to M04).

All of it runs on generated input or on the memory tasks; no data set is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqcourse.benchmarks import Benchmark
from seqcourse.benchmarks.horizon import make_recurrent
from seqcourse.probes import (
    ADDING,
    DELAYED_RECALL,
    Budget,
    MemoryTask,
    SequenceModel,
    cell_state_gradients,
    clipping_effect,
    gate_saturation,
    gradient_norms_by_lag,
    memory_horizon,
    set_spectral_radius_,
    state_gradients,
    train_on_task,
)
from seqcourse.records import Record, generated_source
from seqcourse.recurrent import LSTM, RNN

RADII = (0.5, 0.9, 1.1, 1.5, 3.0)
STATES = ("RNN (tanh)", "LSTM (forget bias 0)", "LSTM (forget bias 1)", "LSTM (chrono)")
NOISE = generated_source("normal noise")
DOUBLE = torch.float64  # a gradient 200 steps back is too small for float32


@dataclass(frozen=True)
class Plan:
    """Sizes of a profile."""

    seeds: int
    hidden_size: int
    lag: int
    steps: int
    delays: tuple[int, ...]


PLANS = {
    "smoke": Plan(2, 16, 20, 40, (3, 5)),
    "laptop": Plan(5, 64, 100, 400, (5, 10, 20, 50)),
    "full": Plan(10, 128, 200, 2000, (5, 10, 20, 50, 100)),
}


def _record(
    name: str,
    claim: str,
    metric: str,
    unit: str,
    measure: Callable[[int], float],
    seeds: Iterable[int],
    protocol: dict[str, Any],
    source: dict[str, Any] | None = NOISE,
) -> Record:
    """Calls ``measure(seed)`` for every seed, torch's generator set to it, and records the values."""
    started, values, seeds = time.perf_counter(), [], list(seeds)
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            values.append(measure(seed))
    return Record.measured(
        f"mechanisms/{name}",
        claim=claim,
        metric=metric,
        unit=unit,
        values=values,
        protocol={**protocol, "seeds": seeds},
        source=source,
        duration_s=time.perf_counter() - started,
    )


def _noise(plan: Plan, input_size: int, device: str, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(8, plan.lag + 1, input_size).to(device)  # (B, T, D)


def gradient_records(plan: Plan, seeds: list[int], device: str) -> list[Record]:
    """M01: the gradient's factor per step of an untrained tanh RNN, by spectral radius of W_hh."""

    def factor(radius: float) -> float:
        rnn = RNN(plan.hidden_size, plan.hidden_size, bias=False)
        nn.init.normal_(rnn.cells[0].weight_hh, std=plan.hidden_size**-0.5)
        set_spectral_radius_(rnn.cells[0].weight_hh.data, radius)
        # Small input and no bias: what bends tanh is the recurrence alone.
        x = _noise(plan, plan.hidden_size, device, scale=0.01)
        norms = gradient_norms_by_lag(rnn.to(device, DOUBLE), x.to(DOUBLE))
        return (norms[plan.lag] / norms[0]).item() ** (1 / plan.lag)

    return [
        _record(
            f"gradient/radius {radius}",
            "M01",
            "gradient factor per step",
            "1",
            lambda seed, radius=radius: factor(radius),
            seeds,
            {
                "model": "RNN (tanh)",
                "spectral_radius": radius,
                "lag": plan.lag,
                "hidden_size": plan.hidden_size,
                "chosen": "without biases: with torch's own, a first trial (one seed) had no factor above 1",
            },
        )
        for radius in RADII
    ]


def clipping_records(plan: Plan, seeds: list[int], device: str) -> list[Record]:
    """M02: loss spikes, and the memory horizon, without and with clipping at norm 1."""
    sgd = Budget(steps=min(plan.steps, 200), learning_rate=0.1, optimiser="sgd")

    def build_steep(task: MemoryTask, delay: int) -> nn.Module:
        rnn = RNN(task.input_size, 32)
        set_spectral_radius_(rnn.cells[0].weight_hh.data, 1.2)
        return SequenceModel(rnn, task.output_size).to(device)

    effects = {}  # one pair of runs per seed serves both records

    def spikes(seed: int, clipped: bool) -> float:
        if seed not in effects:
            effects[seed] = clipping_effect(build_steep, ADDING, 50, budget=sgd, seed=seed)
        return effects[seed].spikes[clipped]

    protocol = {
        "model": "RNN (tanh), spectral radius 1.2",
        "task": ADDING.name,
        "delay": 50,
        "budget": asdict(sgd),
        "chosen": "of 18 settings tried (3 radii, 3 learning rates, 2 tasks; 2 seeds), one that diverges"
        " unclipped and not clipped; at torch's own start no setting showed spikes",
    }
    records = [
        _record(
            f"clipping/spikes/clipped {clipped}",
            "M02",
            "loss spikes",
            "steps",
            lambda seed, clipped=clipped: spikes(seed, clipped),
            seeds,
            {**protocol, "clipped": clipped},
            generated_source("adding task"),
        )
        for clipped in (False, True)
    ]
    return records + [_clipped_horizon(plan, seeds, device, clipped) for clipped in (False, True)]


def _clipped_horizon(plan: Plan, seeds: list[int], device: str, clipped: bool) -> Record:
    budget = Budget(steps=plan.steps, clip=1.0 if clipped else None)
    build = _builder("RNN (tanh)", plan, device)

    def horizon(seed: int) -> float:
        return memory_horizon(build, DELAYED_RECALL, plan.delays, [seed], budget, progress=False)[0].mean

    return _record(
        f"clipping/horizon/clipped {clipped}",
        "M02",
        "memory horizon",
        "steps",
        horizon,
        seeds,
        {"model": "RNN (tanh)", "clipped": clipped, "delays": plan.delays, "budget": asdict(budget)},
        generated_source("delayed recall task"),
    )


def _builder(model: str, plan: Plan, device: str) -> Callable[[MemoryTask, int], nn.Module]:
    def build(task: MemoryTask, delay: int) -> nn.Module:
        recurrent = make_recurrent(model, task.input_size, plan.hidden_size, delay)
        return SequenceModel(recurrent, task.output_size).to(device)

    return build


def highway_records(plan: Plan, seeds: list[int], device: str) -> list[Record]:
    """M03: what is left of the gradient after the lag in untrained layers, and with gates forced."""

    def left(model: str) -> float:
        layer = make_recurrent(model, 8, plan.hidden_size, plan.lag).to(device)
        state_name = "cell_state" if isinstance(layer, LSTM) else "hidden_state"
        x = _noise(plan, 8, device).to(DOUBLE)
        return state_gradients(layer.to(DOUBLE), x, state_name=state_name)[plan.lag].item()

    def forced(seed: int) -> float:
        layer = LSTM(8, plan.hidden_size)
        with torch.no_grad():  # sigmoid(-1000) is 0 and sigmoid(1000) is 1, exactly
            layer.cells[0].bias_ih[: plan.hidden_size] = -1000.0
            layer.cells[0].bias_ih[plan.hidden_size : 2 * plan.hidden_size] = 1000.0
        return cell_state_gradients(layer.to(device), _noise(plan, 8, device))[plan.lag].item()

    protocol = {
        "lag": plan.lag,
        "hidden_size": plan.hidden_size,
        "measure": "Frobenius norm of the Jacobian / sqrt(H)",
    }
    metric = "cell-state gradient with gates forced open"
    records = [_record("highway/forced", "M03", metric, "1", forced, seeds, {**protocol, "model": "LSTM"})]
    for model in STATES:
        metric = "gradient left after the lag"
        measure = lambda seed, model=model: left(model)  # noqa: E731
        records.append(
            _record(f"highway/{model}", "M03", metric, "1", measure, seeds, {**protocol, "model": model})
        )
    return records


def saturation_records(plan: Plan, seeds: list[int], device: str) -> list[Record]:
    """M04: saturated gates at the start, and the loss after training, from a usual and a saturated start."""
    budget, delay = Budget(steps=plan.steps), 5
    protocol = {"model": "LSTM", "task": DELAYED_RECALL.name, "delay": delay, "budget": asdict(budget)}
    starts = {"usual": 1.0, "saturated": 30.0}

    def model(scale: float) -> SequenceModel:
        lstm = LSTM(DELAYED_RECALL.input_size, plan.hidden_size)
        with torch.no_grad():
            for parameter in lstm.parameters():
                parameter.mul_(scale)
        return SequenceModel(lstm, DELAYED_RECALL.output_size).to(device)

    def saturated(scale: float, seed: int) -> float:
        x, _ = DELAYED_RECALL.make(delay, 64, torch.Generator().manual_seed(seed))
        gates = gate_saturation(model(scale), x.to(device))
        shares = [share.total for name, share in gates.items() if name.endswith("_gate")]
        return sum(shares) / len(shares)

    def loss(scale: float, seed: int) -> float:
        outcome = train_on_task(
            model(scale), DELAYED_RECALL, delay, budget=budget, seed=seed, stop_when_solved=False
        )
        return sum(outcome.losses[-20:]) / len(outcome.losses[-20:])

    records = []
    for metric, unit, measure in (
        ("saturated gates at the start", "1", saturated),
        ("loss after training", "nats", loss),
    ):
        for start, scale in starts.items():
            bound = lambda seed, scale=scale, measure=measure: measure(scale, seed)  # noqa: E731
            given = {**protocol, "start": start, "weights_times": scale}
            source = generated_source("delayed recall task")
            records.append(
                _record(f"saturation/{metric}/{start}", "M04", metric, unit, bound, seeds, given, source)
            )
    return records


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Runs all four; short enough to start again after an interruption, so nothing is kept for resuming."""
    plan = PLANS[profile]
    chosen = list(range(seeds or plan.seeds))
    parts = (gradient_records, clipping_records, highway_records, saturation_records)
    return [record for part in parts for record in part(plan, chosen, device)]


BENCHMARK = Benchmark(
    name="mechanisms",
    about="Gradients through time, clipping, the cell state, saturated gates (M01 to M04).",
    cost={
        "smoke": "under 30 seconds on one core",
        "laptop": "about 2 minutes on one core; 5 seeds, lag 100",
        "full": "about an hour on one core; 10 seeds, lag 200",
    },
    run=run,
)
