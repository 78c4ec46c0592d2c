"""Memory horizon: how far back each kind of model learns to remember, by initialisation (claims N05, N06, N08).

Every model gets the same training budget on each task and delay; the horizon is the longest delay it solves.
No single learning rate suits all models, so each may try the same few: a run that is not solved is repeated
from the start with the next, and its best score counts.
Initialisations: identity for the ReLU RNN (Le, Jaitly & Hinton 2015), forget bias 1 (Jozefowicz, Zaremba &
Sutskever 2015), chrono (Tallec & Ollivier 2018), which is told the delay, as in the paper.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seqcourse.attention import RotaryPositions
from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.benchmarks.workers import finish
from seqcourse.cells import MinGRUCell
from seqcourse.initialisation import chrono_init_, identity_init_
from seqcourse.probes import TASKS, Budget, MemoryTask, SequenceModel, horizon_piece, horizon_records
from seqcourse.records import Record
from seqcourse.recurrent import GRU, LSTM, RNN, Recurrent
from seqcourse.transformer import Decoder

CLAIMS = "N05 N06 N08"
DELAYS = (5, 10, 20, 50, 100, 200)
MODELS = (
    "RNN (tanh)",
    "RNN (ReLU, identity)",
    "LSTM (forget bias 0)",
    "LSTM (forget bias 1)",
    "LSTM (chrono)",
    "GRU",
    "GRU (chrono)",
    "minGRU",
    "Transformer",
)


@dataclass(frozen=True)
class Plan:
    """What a profile runs: tasks x models x delays x seeds, each within the budget."""

    tasks: tuple[str, ...]
    delays: tuple[int, ...]
    seeds: int
    budget: Budget
    hidden_size: int
    workers: int
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)


PLANS = {
    "smoke": Plan(("delayed recall",), (5, 10), 1, Budget(steps=60, check_every=20, test_size=128), 32, 1),
    "laptop": Plan(("delayed recall",), DELAYS, 5, Budget(), 64, 2),
    "full": Plan(tuple(TASKS), (*DELAYS, 500), 5, Budget(steps=5000), 128, 2),
}


@dataclass(frozen=True)
class Piece:
    """One training run."""

    task: str
    model: str
    delay: int
    seed: int

    @property
    def key(self) -> str:
        """Its name in the file of finished work."""
        return f"{self.task}/{self.model}/{self.delay}/{self.seed}"


def make_recurrent(model: str, input_size: int, hidden_size: int, delay: int) -> Recurrent:
    """A recurrent layer by its name in ``MODELS``.

    Raises:
        ValueError: no such name, or no recurrent layer.
    """
    kind, _, start = model.partition(" ")
    sizes = (input_size, hidden_size)
    known = [name for name in MODELS if name != "Transformer"]
    if model not in known:
        raise ValueError(f"model must be one of {', '.join(known)}, got {model!r}")
    if start == "(ReLU, identity)":
        layer: Recurrent = RNN(*sizes, nonlinearity="relu")
        identity_init_(layer.cells[0])
    elif start.startswith("(forget bias"):
        layer = LSTM(*sizes, forget_bias=float(start.strip("()").split()[-1]))
    else:
        makers = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU, "minGRU": lambda *s: Recurrent(MinGRUCell(*s))}
        layer = makers[kind](*sizes)
    if start == "(chrono)":
        chrono_init_(layer.cells[0], max_time=max(delay, 3))  # log U(1, max_time - 1) needs room
    return layer


class CausalTransformer(nn.Module):
    """A Transformer in the place of a recurrent layer: every step looks at itself and at all before it.

    Shapes:
        x (B, T, input_size); returns (B, T, size) and no state.

    Args:
        input_size: features of the input.
        size: D; it has four heads, whose features are turned by their position (rotary).
        layers: number of blocks.
    """

    def __init__(self, input_size: int, size: int, layers: int = 2) -> None:
        super().__init__()
        self.output_size = size
        self.embedding = nn.Linear(input_size, size)
        self.decoder = Decoder(size, 4, layers, 2 * size, cross=False, dropout=0.0, rotary=RotaryPositions())

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Read a sequence."""
        return self.decoder(self.embedding(x)), None


def make_reader(model: str, input_size: int, hidden_size: int, delay: int) -> Recurrent | CausalTransformer:
    """What reads the sequence, by its name in ``MODELS``."""
    if model == "Transformer":
        return CausalTransformer(input_size, hidden_size)
    return make_recurrent(model, input_size, hidden_size, delay)


def measure(piece: Piece, plan: Plan, device: str) -> dict[str, Any]:
    """Trains one piece; the result is plain values, so that it can cross processes and be stored."""

    def build(task: MemoryTask, delay: int) -> nn.Module:
        reader = make_reader(piece.model, task.input_size, plan.hidden_size, delay)
        return SequenceModel(reader, task.output_size).to(device)

    task, results = TASKS[piece.task], []
    for rate in plan.learning_rates:
        budget = replace(plan.budget, learning_rate=rate)
        results.append({**horizon_piece(build, task, piece.delay, piece.seed, budget), "learning_rate": rate})
        if results[-1]["solved"]:
            break
    better = -1 if task.is_regression else 1
    best = max(results, key=lambda result: (result["solved"], better * result["score"]))
    return {**best, "seconds": sum(result["seconds"] for result in results)}


def stated(plan: Plan) -> dict[str, Any]:
    """What a record says about a plan, beside the budget."""
    return {
        "hidden_size": plan.hidden_size,
        "learning_rates": list(plan.learning_rates),
        "choice": "the first learning rate that solves the task, else the best score; rates picked after"
        " trials of 1e-3, 3e-3 and 1e-2 with one seed on delayed recall",
    }


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Runs a profile; each finished piece is stored at once, and a resumed run does only the others."""
    plan = PLANS[profile]
    return run_plan(plan, seeds or plan.seeds, device, resume, unfinished_path(out, "horizon", profile))


def run_plan(plan: Plan, seeds: int, device: str, resume: bool, path: Path) -> list[Record]:
    """As :func:`run`, for any plan and any file of finished work."""
    protocol = {**stated(plan), "budget": asdict(plan.budget), "device": device}
    finished = FinishedWork(path, protocol, resume)
    pieces = [Piece(*choice) for choice in product(plan.tasks, MODELS, plan.delays, range(seeds))]
    work = partial(measure, plan=plan, device=device)
    finish(finished, {piece.key: piece for piece in pieces}, work, "horizon", plan.workers, device)
    return [
        record
        for task in plan.tasks
        for model in MODELS
        for record in _records(task, model, pieces, finished, plan)
    ]


def _records(task: str, model: str, pieces: list[Piece], finished: FinishedWork, plan: Plan) -> list[Record]:
    chosen = [piece for piece in pieces if (piece.task, piece.model) == (task, model)]
    results = {(piece.delay, piece.seed): finished[piece.key] for piece in chosen}
    return horizon_records(
        results,
        TASKS[task],
        plan.budget,
        name=model,
        claim=CLAIMS,
        protocol=stated(plan),
        commit=finished.commit,
    )


BENCHMARK = Benchmark(
    name="horizon",
    about="How many steps RNN, LSTM, GRU, minGRU and Transformer learn to remember (N05, N06, N08).",
    cost={
        "smoke": "under 30 seconds on one core; shows that it runs, says nothing about memory",
        "laptop": "an estimated hour on two cores; delayed recall, 5 seeds, delays 5 to 200",
        "full": "most of a day on two cores, hours on a GPU; three tasks, delays to 500, 5000 steps",
    },
    run=run,
    shared=True,
)
