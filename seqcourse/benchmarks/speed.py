"""How fast the recurrent layers are, as ratios to peers measured in the same rounds of one process.

Peers: torch's own layer (oneDNN's fused kernel for an LSTM, cuDNN on a GPU), its *portable* path with oneDNN
switched off, and an LSTM from scratch in the manner of a textbook. The process runs with the course's CPU
set-up. What that set-up is worth is measured in other processes, because an allocator cannot be set back.

Batches of unequal length are measured three ways: padded to the longest of a random batch, packed, and padded
after sorting by length (buckets).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.padding import last_valid
from seqcourse.records import Record, generated_source
from seqcourse.recurrent import GRU, LSTM, RNN, Recurrent
from seqcourse.runtime import hardware, setup_cpu, versions

NOISE = generated_source("normal noise")
REVIEW_LENGTHS = generated_source("random tokens, lengths log-normal like film reviews")
LAYERS = {"RNN": (RNN, nn.RNN), "LSTM": (LSTM, nn.LSTM), "GRU": (GRU, nn.GRU)}
PASSES = ("forward", "forward and backward")
WARM_UP = 2


@dataclass(frozen=True)
class Goal:
    """A ratio that was aimed at; ``bound`` holds for forward and backward together."""

    layer: str
    ours: str
    peer: str
    bound: float

    @property
    def name(self) -> str:
        """As it stands in the record's name."""
        return f"{self.layer} {self.ours} over {self.peer}"


GOALS = (
    Goal("LSTM", "fused", "torch", 1.05),
    Goal("LSTM", "loop", "portable", 1.10),
    Goal("LSTM", "loop", "scratch", 0.85),
    Goal("LSTM", "bptt", "portable", 0.92),
    Goal("RNN", "bptt", "torch", 0.90),
    Goal("GRU", "bptt", "torch", 1.00),
)
SETUP_BOUND = 1.4  # without the set-up over with it
PADDED_BOUND, PACKED_BOUND = 1.4, 5.0  # over bucketed


@dataclass(frozen=True)
class Plan:
    """Sizes of a profile; ``reviews`` is the number of sequences in the three ways of batching."""

    lengths: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    batch_size: int
    rounds: int
    review_length: int
    reviews: int
    setup_steps: int
    setup_rounds: int
    threads: int | None = None  # torch's own choice


PLANS = {
    "smoke": Plan((8,), (16,), 4, 3, 16, 16, 2, 2, threads=1),
    "laptop": Plan((64, 256, 1024), (128,), 32, 11, 256, 512, 12, 5),
    "full": Plan((64, 256, 1024), (128, 256), 32, 21, 256, 1024, 20, 9),
}


class ScratchLSTM(nn.Module):
    """An LSTM as textbooks build it: one weight per gate and source, eight products and three lists a step.

    Written from the description in Zhang et al., Dive into Deep Learning; a peer to measure against.

    Shapes:
        x ``(B, T, D)``; output ``(B, T, H)``.
    """

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size = layer.hidden_size
        biases = (layer.bias_ih_l0 + layer.bias_hh_l0).chunk(4)
        self.from_input = nn.ParameterList(part.detach().t().clone() for part in layer.weight_ih_l0.chunk(4))
        self.from_hidden = nn.ParameterList(part.detach().t().clone() for part in layer.weight_hh_l0.chunk(4))
        self.biases = nn.ParameterList(part.detach().clone() for part in biases)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run every gate of every step by itself."""
        h = c = x.new_zeros(x.shape[0], self.hidden_size)
        outputs = []
        for x_t in x.transpose(0, 1):
            input_gate = torch.sigmoid(self._affine(0, x_t, h))
            forget_gate = torch.sigmoid(self._affine(1, x_t, h))
            candidate = torch.tanh(self._affine(2, x_t, h))
            output_gate = torch.sigmoid(self._affine(3, x_t, h))
            c = forget_gate * c + input_gate * candidate
            h = output_gate * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, dim=1), (h, c)

    def _affine(self, gate: int, x_t: Tensor, h: Tensor) -> Tensor:
        products = torch.matmul(x_t, self.from_input[gate]) + torch.matmul(h, self.from_hidden[gate])
        return products + self.biases[gate]


class Portable(nn.Module):
    """A torch layer with oneDNN switched off: what runs where oneDNN has no kernel."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Run the layer; the backward pass follows the path taken here."""
        with torch.backends.mkldnn.flags(enabled=False):
            return self.layer(x)


def contenders(kind: str, hidden_size: int, device: str) -> dict[str, nn.Module]:
    """Return all ways to compute one layer, with the same weights; the portable path exists on a CPU only."""
    ours, theirs = LAYERS[kind]
    reference = theirs(hidden_size, hidden_size, batch_first=True)
    layers: dict[str, nn.Module] = {"torch": reference}
    if device == "cpu":
        layers["portable"] = Portable(reference)
    if kind == "LSTM":
        layers["scratch"] = ScratchLSTM(reference)
    for impl in ("fused", "loop", "bptt"):
        layers[impl] = ours(hidden_size, hidden_size, impl=impl).load_from_torch(reference)
    return {name: layer.to(device) for name, layer in layers.items()}


def interleaved(
    works: dict[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = WARM_UP,
) -> dict[str, list[float]]:
    """Time every work once a round, so that a slow moment of the machine hits all; the order turns."""
    names, seconds = list(works), {name: [] for name in works}
    for number in range(-warm_up, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = clock()
            works[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= 0:
                seconds[name].append(clock() - started)
    return seconds


def time_layer(
    kind: str, hidden_size: int, length: int, direction: str, plan: Plan, device: str
) -> dict[str, Any]:
    """Measure all contenders for one layer; for training also how far their gradients are apart."""
    torch.manual_seed(0)
    layers = contenders(kind, hidden_size, device)
    x = torch.randn(plan.batch_size, length, hidden_size, device=device, requires_grad=True)

    def forward(layer: nn.Module) -> None:
        with torch.no_grad():
            layer(x)

    def both(layer: nn.Module) -> None:
        torch.autograd.grad(layer(x)[0].sum(), [x, *layer.parameters()])

    work = forward if direction == "forward" else both
    times = interleaved(
        {name: lambda layer=layer: work(layer) for name, layer in layers.items()}, plan.rounds
    )
    result: dict[str, Any] = {"seconds": times}
    if direction != "forward":
        result["gradient difference"] = {
            name: gradient_difference(layers[name], layers["torch"], x) for name in ("fused", "loop", "bptt")
        }
    return result


def gradient_difference(layer: Recurrent, reference: nn.RNNBase, x: Tensor) -> float:
    """Return the largest difference between the gradients of two layers, relative to the largest gradient."""
    own = torch.autograd.grad(layer(x)[0].sum(), [x, *layer.torch_parameters().values()])
    names = layer.torch_parameters()
    theirs = torch.autograd.grad(reference(x)[0].sum(), [x, *(getattr(reference, name) for name in names)])
    differences = [(a - b).abs().max() / b.abs().max() for a, b in zip(own, theirs, strict=True)]
    return max(float(difference) for difference in differences)


# ---------------------------------------------------------------------------- batches of unequal length


class ReviewClassifier(nn.Module):
    """Embedding, one LSTM, its last valid state, two classes.

    Shapes:
        tokens ``(B, T)``; lengths ``(B,)``; logits ``(B, 2)``.
    """

    def __init__(self, vocabulary_size: int = 20_000, size: int = 128, packed: bool = False) -> None:
        super().__init__()
        self.packed = packed
        self.embedding = nn.Embedding(vocabulary_size, size)
        self.recurrent = nn.LSTM(size, size, batch_first=True) if packed else LSTM(size, size)
        self.classify = nn.Linear(size, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Read the reviews and return logits."""
        embedded = self.embedding(tokens)
        if self.packed:
            embedded = nn.utils.rnn.pack_padded_sequence(embedded, lengths, True, enforce_sorted=False)
            return self.classify(self.recurrent(embedded)[1][0][0])
        output, _ = self.recurrent(embedded, lengths=lengths)
        return self.classify(last_valid(output, lengths.to(output.device)))


def review_batches(plan: Plan, bucketed: bool) -> list[tuple[Tensor, Tensor]]:
    """Return batches (tokens, lengths) of about 174 tokens, cut off; sorted by length first if bucketed."""
    generator = torch.Generator().manual_seed(0)
    scale = plan.review_length / 256  # a smoke run shrinks the reviews, too
    lengths = (torch.randn(plan.reviews, generator=generator) * 0.6).exp() * 174 * scale
    lengths = lengths.long().clamp(1, plan.review_length)
    if bucketed:
        lengths = lengths.sort().values
    batches = lengths.split(2 * plan.batch_size)
    shapes = [(len(part), int(part.max())) for part in batches]
    tokens = [torch.randint(20_000, shape, generator=generator) for shape in shapes]
    return list(zip(tokens, batches, strict=True))


def train_epoch(model: ReviewClassifier, batches: list[tuple[Tensor, Tensor]], device: str) -> None:
    """Compute all gradients of one pass over the batches."""
    for tokens, lengths in batches:
        loss = F.cross_entropy(model(tokens.to(device), lengths), torch.zeros_like(lengths).to(device))
        model.zero_grad()
        loss.backward()


def time_batching(plan: Plan, device: str) -> dict[str, Any]:
    """Measure one epoch padded, packed and bucketed: the same reviews, the same layer."""
    models = {
        "padded": ReviewClassifier(),
        "packed": ReviewClassifier(packed=True),
        "bucketed": ReviewClassifier(),
    }
    works = {}
    for name, model in models.items():
        model.to(device)
        batches = review_batches(plan, bucketed=name == "bucketed")
        works[name] = lambda model=model, batches=batches: train_epoch(model, batches, device)
    return {"seconds": interleaved(works, plan.rounds)}


# ---------------------------------------------------------------------------------------- the CPU set-up


def step_in_this_process(allocator: bool, threads: int, plan: Plan) -> float:
    """Return the median seconds of an IMDB-like training step: batch 64, embedding and LSTM of 128, Adam."""
    setup_cpu(threads, allocator=allocator)
    model = ReviewClassifier()
    optimiser = torch.optim.Adam(model.parameters())
    tokens = torch.randint(20_000, (2 * plan.batch_size, plan.review_length))
    lengths = torch.full((len(tokens),), plan.review_length)
    seconds = []
    for _ in range(WARM_UP + plan.setup_steps):
        started = time.perf_counter()
        train_epoch(model, [(tokens, lengths)], "cpu")
        optimiser.step()
        seconds.append(time.perf_counter() - started)
    return median(seconds[WARM_UP:])


def step_in_a_process(allocator: bool, plan: Plan) -> float:
    """As :func:`step_in_this_process`, in a fresh Python: what an allocator has done cannot be undone."""
    call = {"allocator": allocator, "threads": torch.get_num_threads(), "plan": asdict(plan)}
    command = [sys.executable, "-m", "seqcourse.benchmarks.speed", json.dumps(call)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(printed.splitlines()[-1])


def time_setup(plan: Plan) -> dict[str, Any]:
    """Measure steps without and with the allocator's set-up, in turns."""
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(plan.setup_rounds):
        for name, allocator in (("without", False), ("with", True)):
            seconds[name].append(step_in_a_process(allocator, plan))
    return {"seconds": seconds}


# ------------------------------------------------------------------------------------------ the records


def pieces(plan: Plan, device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return everything there is to measure: name and work."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for kind, hidden_size, length, direction in product(LAYERS, plan.hidden_sizes, plan.lengths, PASSES):
        arguments = (kind, hidden_size, length, direction, plan, device)
        found[_setting(kind, hidden_size, length, direction)] = lambda given=arguments: time_layer(*given)
    found["batching"] = lambda: time_batching(plan, device)
    if device == "cpu":
        found["set-up"] = lambda: time_setup(plan)
    return found


def _setting(kind: str, hidden_size: int, length: int, direction: str) -> str:
    return f"{kind}/H {hidden_size} T {length}/{direction}"


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Run a profile; ``seeds`` is the number of timing rounds. Finished pieces are kept."""
    plan = PLANS[profile]
    if seeds is not None:
        plan = Plan(**{**asdict(plan), "rounds": seeds, "setup_rounds": seeds})
    done = setup_cpu(plan.threads) if device == "cpu" else {"threads": torch.get_num_threads()}
    conditions = {"plan": asdict(plan), "device": device, **done, "cpu": hardware()["cpu"], **versions()}
    finished = FinishedWork(unfinished_path(out, "speed", profile), conditions, resume)
    for name, work in tqdm(pieces(plan, device).items(), desc="speed", unit="piece", disable=None):
        if name not in finished:
            started = time.perf_counter()
            result = work()
            finished.add(name, {**result, "duration_s": time.perf_counter() - started})
    return [*layer_records(plan, finished), *batching_records(plan, finished, device)]


def layer_records(plan: Plan, finished: FinishedWork) -> list[Record]:
    """Turn the times of the layers into ratios, and state how far gradients are apart."""
    records = []
    for kind, hidden_size, length, direction in product(LAYERS, plan.hidden_sizes, plan.lengths, PASSES):
        setting = _setting(kind, hidden_size, length, direction)
        sizes = {"hidden_size": hidden_size, "input_size": hidden_size, "length": length}
        protocol = {**sizes, "batch_size": plan.batch_size, "pass": direction, "dtype": "float32"}
        result = finished[setting]
        for goal in GOALS:
            if goal.layer == kind and goal.peer in result["seconds"]:
                bound = {"goal": f"at most {goal.bound}"} if direction != "forward" else {}
                name = f"speed/{goal.name}/{setting.split('/', 1)[1]}"
                records.append(_ratio(name, goal.ours, goal.peer, {**protocol, **bound}, finished, setting))
        for impl, difference in result.get("gradient difference", {}).items():
            name = f"speed/{kind} {impl} gradients/{setting.split('/', 1)[1]}"
            records.append(_difference(name, difference, protocol, finished, setting))
    return records


def batching_records(plan: Plan, finished: FinishedWork, device: str) -> list[Record]:
    """Turn the times of the three ways of batching, and of the CPU set-up, into ratios."""
    sizes = {"batch_size": 2 * plan.batch_size, "longest": plan.review_length, "size": 128}
    epoch = {**sizes, "reviews": plan.reviews, "pass": "one epoch, forward and backward"}
    records = []
    for name, bound in (("padded", PADDED_BOUND), ("packed", PACKED_BOUND)):
        protocol = {**epoch, "goal": f"at least {bound}"}
        records.append(
            _ratio(f"speed/{name} over bucketed", name, "bucketed", protocol, finished, "batching")
        )
    if device == "cpu":
        step = {**sizes, "pass": "training step with Adam, median of a process", "steps": plan.setup_steps}
        step["goal"] = f"at least {SETUP_BOUND}"
        records.append(
            _ratio("speed/CPU without set-up over with", "without", "with", step, finished, "set-up")
        )
    return records


def _ratio(
    name: str, ours: str, peer: str, protocol: dict[str, Any], finished: FinishedWork, piece: str
) -> Record:
    """Make a record of the ratio in each round; the protocol holds both median times."""
    result = finished[piece]
    pairs = zip(result["seconds"][ours], result["seconds"][peer], strict=True)
    times = {each: 1000 * median(result["seconds"][each]) for each in (ours, peer)}
    return Record.measured(
        name,
        metric=f"time of {ours} / time of {peer}",
        unit="1",
        values=[own / other for own, other in pairs],
        protocol={**finished.protocol, **protocol, "median_ms": times},
        source=NOISE if "/" in piece else REVIEW_LENGTHS,
        duration_s=result["duration_s"],
        commit=finished.commit,
    )


def _difference(
    name: str, value: float, protocol: dict[str, Any], finished: FinishedWork, piece: str
) -> Record:
    return Record.measured(
        name,
        metric="largest difference from torch's gradients / largest gradient",
        unit="1",
        values=[value],
        protocol={**finished.protocol, **protocol},
        source=NOISE,
        duration_s=finished[piece]["duration_s"],
        commit=finished.commit,
    )


BENCHMARK = Benchmark(
    name="speed",
    about="The recurrent layers against torch's own and a textbook's; CPU set-up; padded, packed, bucketed.",
    cost={
        "smoke": "under a minute on one core; shows that it runs, says nothing about speed",
        "laptop": "about 10 minutes on two idle cores",
        "full": "about an hour on two idle cores, minutes on a GPU",
    },
    run=run,
)


if __name__ == "__main__":  # the child of step_in_a_process
    request = json.loads(sys.argv[1])
    print(step_in_this_process(request["allocator"], request["threads"], Plan(**request["plan"])))
