"""What RNN, LSTM and GRU cost, side by side: parameters, time, memory, and what they reach (claims N07, C03).

Times are of interleaved rounds in one process, so that a slow moment of the machine hits all three. They
depend on the machine: torch's CPU kernels differ in kind (the LSTM is fused, the GRU is not), so a GPU may
rank them otherwise.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from seqcourse.benchmarks import Benchmark
from seqcourse.probes import TASKS, Budget, SequenceModel, train_on_task
from seqcourse.records import Record, generated_source
from seqcourse.recurrent import GRU, LSTM, RNN, Recurrent

LAYERS: dict[str, type[Recurrent]] = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM}
NOISE = generated_source("normal noise")


@dataclass(frozen=True)
class Plan:
    """Sizes of a profile."""

    hidden_size: int
    lengths: tuple[int, ...]
    rounds: int
    seeds: int
    steps: int


PLANS = {
    "smoke": Plan(16, (8, 16), 3, 2, 20),
    "laptop": Plan(128, (64, 256), 20, 5, 600),
    "full": Plan(256, (64, 256, 1024), 50, 5, 2000),
}


def parameter_count(module: torch.nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameter_records(sizes: tuple[int, ...] = (32, 64, 128, 256)) -> list[Record]:
    """N07: parameters relative to an RNN of the same input and hidden size, one value per size."""
    counts = {
        model: [parameter_count(layer(size, size)) for size in sizes] for model, layer in LAYERS.items()
    }
    return [
        Record.measured(
            f"cost/parameters/{model}",
            claim="N07",
            metric="parameters relative to an RNN",
            unit="1",
            values=[count / rnn for count, rnn in zip(counts[model], counts["RNN"], strict=True)],
            protocol={"model": model, "sizes": sizes, "counts": counts[model]},
            duration_s=0.0,
        )
        for model in ("GRU", "LSTM")
    ]


def seconds_for_step(layer: Recurrent, x: Tensor) -> float:
    """Forward and backward of one batch; x (B, T, D)."""
    started = time.perf_counter()
    layer(x)[0].sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started


def training_bytes(layer: Recurrent, x: Tensor) -> int:
    """Bytes that one training step keeps: parameters, their gradients, and all that is saved for backward.

    Counted through autograd, each storage once, so it is the same on every run; a kernel's scratch space that
    autograd does not see is not in it. x (B, T, D).
    """
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = layer(x)[0]  # kept alive, so that no storage is counted twice under a new address
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()} | {x.data_ptr()}
    saved = sum(size for address, size in storages.items() if address not in own)
    del output
    return saved + 2 * sum(parameter.untyped_storage().nbytes() for parameter in layer.parameters())


def cost_records(plan: Plan, device: str) -> list[Record]:
    """C03: time and memory of a training step relative to an RNN, by length."""
    records = []
    for T in plan.lengths:
        layers = {
            model: layer(plan.hidden_size, plan.hidden_size).to(device) for model, layer in LAYERS.items()
        }
        x = torch.randn(32, T, plan.hidden_size).to(device)
        started = time.perf_counter()
        times = _interleaved(layers, x, plan.rounds)
        memory = {model: training_bytes(layer, x) for model, layer in layers.items()}
        duration = time.perf_counter() - started
        for model in ("GRU", "LSTM"):
            ratios = [own / rnn for own, rnn in zip(times[model], times["RNN"], strict=True)]
            for metric, values in (("time", ratios), ("memory", [memory[model] / memory["RNN"]])):
                records.append(_relative(metric, model, T, values, plan, device, duration))
    return records


def _interleaved(layers: dict[str, Recurrent], x: Tensor, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {model: [] for model in layers}
    for number in range(rounds + 2):
        for model, layer in layers.items():
            seconds = seconds_for_step(layer, x)
            if number >= 2:  # the first two warm up caches and allocator
                times[model].append(seconds)
    return times


def _relative(
    metric: str, model: str, T: int, values: list[float], plan: Plan, device: str, duration_s: float
) -> Record:
    setting = {"hidden_size": plan.hidden_size, "batch_size": 32, "length": T, "device": device}
    return Record.measured(
        f"cost/{metric}/{model}/T {T}",
        claim="C03",
        metric=f"{metric} relative to an RNN",
        unit="1",
        values=values,
        protocol={"model": model, "setting": f"T {T}", "step": "forward and backward, float32", **setting},
        source=NOISE,
        duration_s=duration_s,
    )


def quality_records(plan: Plan, seeds: list[int], device: str) -> list[Record]:
    """C03: the score of each layer on three memory tasks at a delay of 10, after the same training."""
    budget = Budget(steps=plan.steps)
    return [
        _quality(task, model, seeds, budget, plan, device)
        for task in TASKS
        for model in ("RNN", "GRU", "LSTM")
    ]


def _quality(task: str, model: str, seeds: list[int], budget: Budget, plan: Plan, device: str) -> Record:
    def score(seed: int) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = LAYERS[model](TASKS[task].input_size, plan.hidden_size)
            network = SequenceModel(layer, TASKS[task].output_size).to(device)
        return train_on_task(network, TASKS[task], 10, budget=budget, seed=seed, stop_when_solved=False).score

    started = time.perf_counter()
    values = [score(seed) for seed in seeds]
    return Record.measured(
        f"cost/quality/{task}/{model}",
        claim="C03",
        metric=f"quality: {TASKS[task].metric} on {task}",
        unit="1",
        values=values,
        protocol={
            "model": model,
            "delay": 10,
            "seeds": seeds,
            "budget": asdict(budget),
            "hidden_size": plan.hidden_size,
        },
        source=generated_source(f"{task} task"),
        duration_s=time.perf_counter() - started,
    )


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Runs all three parts; short enough to start again after an interruption, so nothing is kept."""
    plan = PLANS[profile]
    chosen = list(range(seeds or plan.seeds))
    return parameter_records() + cost_records(plan, device) + quality_records(plan, chosen, device)


BENCHMARK = Benchmark(
    name="cost",
    about="Parameters, time, memory and quality of RNN, GRU and LSTM side by side (N07, C03).",
    cost={
        "smoke": "under 30 seconds on one core",
        "laptop": "about 4 minutes on one core, which should be idle",
        "full": "an hour on one core, or minutes on a GPU",
    },
    run=run,
)
