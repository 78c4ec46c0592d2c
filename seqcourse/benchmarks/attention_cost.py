"""What attention costs in time and memory, beside recurrent layers of the same width (C01, C02, C07, C13).

Three questions, because "faster" means three things:

- a layer, forward and backward: self-attention (readable and fused) and recurrent layers on sequences of
  growing length;
- a language model at work: reading a context (prefill), then writing one token after it, with and without a
  cache, beside an LSTM's step;
- a language model in training: tokens per second of a Transformer and an LSTM with equally many parameters,
  where the same number of tokens comes in short or in long sequences.

Times are of interleaved rounds in one process: value i of one record and value i of another belong to the same
round, so their ratio is what a busy machine spares. With one thread on a CPU they are processor time, which on
an idle machine is the time of the clock: on a busy one, a call that is interrupted would look slow, and a call
too short to be interrupted would not. Peaks of memory are of a fresh process each
(:mod:`seqcourse.benchmarks.memory`). Where memory ends, longer sequences are left out, and the record says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from seqcourse.attention import MultiHeadAttention
from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.benchmarks.cost import parameter_count
from seqcourse.benchmarks.memory import method, peak_in_a_process
from seqcourse.benchmarks.speed import interleaved
from seqcourse.models import LanguageModel, TransformerLanguageModel
from seqcourse.models.language_model import next_token_loss
from seqcourse.records import Record, generated_source
from seqcourse.recurrent import GRU, LSTM, RNN
from seqcourse.runtime import hardware, setup_cpu, versions
from seqcourse.transformer import Cache

NOISE = generated_source("normal noise")
RANDOM_TOKENS = generated_source("random tokens")
PASSES = ("forward", "forward and backward")
TRANSFORMER, STACKED_LSTM = "Transformer", "LSTM"
READERS = (TRANSFORMER, STACKED_LSTM)
WRITERS = ("Transformer with cache", "Transformer without cache", STACKED_LSTM)
LSTM_LAYERS = 2


@dataclass(frozen=True)
class Plan:
    """Sizes of a profile.

    Attributes:
        size: features of a layer, D.
        heads: N.
        batch_size: sequences in a batch for the layers.
        lengths: T for the layers.
        vocabulary_size: of the language models.
        layers: blocks of the Transformer; the LSTM has two layers, as wide as makes it equally large.
        contexts: how many tokens were read before one is written.
        training_lengths: length of the sequences in which the training tokens come.
        tokens: in a batch for training.
        rounds: of timing.
        memory_rounds: processes that measure a peak.
        calls: of writing in a round, because one call is too short to time.
        memory_gb: what a single call may take at the most.
        threads: of torch.
    """

    size: int
    heads: int
    batch_size: int
    lengths: tuple[int, ...]
    vocabulary_size: int
    layers: int
    contexts: tuple[int, ...]
    training_lengths: tuple[int, ...]
    tokens: int
    rounds: int
    memory_rounds: int
    calls: int
    memory_gb: float
    threads: int = 1


PLANS = {
    "smoke": Plan(8, 2, 2, (16, 32), 16, 1, (8, 16), (8, 16), 32, 3, 1, 2, 1.0),
    "laptop": Plan(
        size=128,
        heads=4,
        batch_size=4,
        lengths=(64, 128, 256, 512, 1024, 2048, 4096),
        vocabulary_size=256,
        layers=4,
        contexts=(64, 256, 1024, 4096),
        training_lengths=(32, 128, 512, 2048),
        tokens=4096,
        rounds=5,
        memory_rounds=3,
        calls=5,
        memory_gb=6.0,
    ),
    "full": Plan(
        size=256,
        heads=8,
        batch_size=8,
        lengths=(64, 128, 256, 512, 1024, 2048, 4096),
        vocabulary_size=1024,
        layers=6,
        contexts=(64, 256, 1024, 4096),
        training_lengths=(32, 128, 512, 2048),
        tokens=16_384,
        rounds=15,
        memory_rounds=3,
        calls=20,
        memory_gb=64.0,
        threads=2,
    ),
}


# ---------------------------------------------------------------------------------------------- the layers


class ReadableAttention(MultiHeadAttention):
    """Self-attention that stores all its T x T weights. Shapes: x ``(B, T, D)``; output the same."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the weights ``(B, N, T, T)``."""
        return super().forward(x, need_weights=True)


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "attention, readable": ReadableAttention,
    "attention, fused": MultiHeadAttention,
    "RNN": lambda size, heads: RNN(size, size),
    "GRU": lambda size, heads: GRU(size, size),
    "LSTM": lambda size, heads: LSTM(size, size),
}


def layer_work(
    layer: str, size: int, heads: int, batch_size: int, length: int, direction: str, device: str
) -> Callable[[], Any]:
    """Return a call that runs a layer of D features on noise (B, T, D), forward or forward and backward."""
    torch.manual_seed(0)
    module = LAYERS[layer](size, heads).to(device)
    x = torch.randn(batch_size, length, size, device=device, requires_grad=True)

    def forward() -> Any:
        with torch.no_grad():
            return module(x)

    def both() -> Any:
        return torch.autograd.grad(module(x)[0].sum(), [x, *module.parameters()])

    return forward if direction == "forward" else both


# ------------------------------------------------------------------------------------- the language models


def make_model(kind: str, plan: Plan) -> nn.Module:
    """Build a language model of the plan; the LSTM has as many parameters as the Transformer, nearly."""
    torch.manual_seed(0)
    options = {"dropout": 0.0, "positions": "rotary", "tie_weights": False}
    transformer = TransformerLanguageModel(
        plan.vocabulary_size, plan.size, plan.heads, plan.layers, **options
    )
    if kind == TRANSFORMER:
        return transformer
    hidden_size = equal_hidden_size(parameter_count(transformer), plan.vocabulary_size)
    return LanguageModel(plan.vocabulary_size, hidden_size, hidden_size, "lstm", LSTM_LAYERS)


def equal_hidden_size(parameters: int, vocabulary_size: int) -> int:
    """The hidden size at which an LSTM language model comes closest to a number of parameters."""

    def parameters_of(H: int) -> int:  # embedding, head with bias, layers with eight matrices and biases
        return 2 * vocabulary_size * H + vocabulary_size + LSTM_LAYERS * 8 * (H * H + H)

    return min(range(1, isqrt(parameters) + 2), key=lambda H: (abs(parameters_of(H) - parameters), H))


def read(model: nn.Module, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Read tokens after a state, which stays as it is, without gradients."""
    with torch.no_grad():
        return model(tokens, state)


def reading_work(model: str, context: int, plan: dict, device: str) -> Callable[[], Any]:
    """Return a call that reads a context (prefill)."""
    plan = Plan(**plan)
    module = make_model(model, plan).to(device).eval()
    tokens = torch.randint(plan.vocabulary_size, (1, context), device=device)
    return lambda: read(module, tokens)


def writing_work(writer: str, context: int, plan: dict, device: str) -> Callable[[], Any]:
    """Return a call that computes the token after a context: from what was kept, or all over again."""
    plan = Plan(**plan)
    module = make_model(writer.split()[0], plan).to(device).eval()
    tokens = torch.randint(plan.vocabulary_size, (1, context), device=device)
    if writer == "Transformer without cache":
        return lambda: read(module, tokens)
    _, state = read(module, tokens[:, :-1])
    return lambda: read(module, tokens[:, -1:], state)


def kept_bytes(state: Any) -> int:
    """Bytes of all tensors in a cache or a state: what stays in memory between two tokens."""
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, Cache):
        return sum(kept_bytes(list(vars(layer).values())) for layer in state.layers)
    return sum(map(kept_bytes, state)) if isinstance(state, list | tuple) else 0


def training_work(model: str, length: int, plan: dict, device: str) -> Callable[[], Any]:
    """Return a training step: loss, gradients, AdamW, on the plan's number of tokens."""
    plan = Plan(**plan)
    module = make_model(model, plan).to(device)
    optimiser = torch.optim.AdamW(module.parameters())
    tokens = torch.randint(plan.vocabulary_size, (plan.tokens // length, length + 1), device=device)

    def step() -> None:
        loss = next_token_loss(module(tokens[:, :-1])[0], tokens[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


# ------------------------------------------------------------------------------------------ the measuring


@dataclass(frozen=True)
class Study:
    """One of the three questions: who takes part, on which lengths, and what is called.

    Attributes:
        name: as in the records' names.
        parties: who is compared.
        lengths: on what.
        work: builds the call; takes ``arguments(party, length)`` and the device.
        arguments: JSON values.
        metrics: of time and of memory; memory is not measured without a name for it.
        claims: that both speak to.
        calls: in a round.
    """

    name: str
    parties: tuple[str, ...]
    lengths: tuple[int, ...]
    work: Callable[..., Callable[[], Any]]
    arguments: Callable[[str, int], dict]
    metrics: tuple[str, ...]
    claims: tuple[str, ...]
    calls: int = 1


def studies(plan: Plan) -> list[Study]:
    """All questions of a plan."""
    sizes = asdict(plan)

    def of_model(name: str, length_name: str) -> Callable[[str, int], dict]:
        return lambda party, length: {name: party, length_name: length, "plan": sizes}

    layers = [layer_study(plan, direction) for direction in PASSES]
    reading = ("time to read a context", "peak memory of reading a context")
    # No peak of writing: what was read before has left memory that is free, and hides it. What is kept is counted.
    writing = ("time to write a token",)
    return [
        *layers,
        Study(
            "reading",
            READERS,
            plan.contexts,
            reading_work,
            of_model("model", "context"),
            reading,
            ("C02",) * 2,
        ),
        Study(
            "writing",
            WRITERS,
            plan.contexts,
            writing_work,
            of_model("writer", "context"),
            writing,
            ("C02",) * 2,
            plan.calls,
        ),
        Study(
            "training",
            READERS,
            plan.training_lengths,
            training_work,
            of_model("model", "length"),
            ("training speed",),
            ("C01",),
        ),
    ]


def layer_study(plan: Plan, direction: str) -> Study:
    """A layer by itself, in one of the passes."""
    sizes = {"size": plan.size, "heads": plan.heads, "batch_size": plan.batch_size, "direction": direction}
    arguments = lambda layer, T: {**sizes, "layer": layer, "length": T}  # noqa: E731
    metrics = ("time of a layer", "peak memory of a layer")
    return Study(
        f"layer/{direction}", tuple(LAYERS), plan.lengths, layer_work, arguments, metrics, ("", "C07 C13")
    )


def measure_memory(
    study: Study, party: str, length: int, plan: Plan, device: str, finished: FinishedWork
) -> dict[str, Any]:
    """Return the peaks of calls in processes of their own, or where memory ended, here or at a shorter length."""
    shorter = [T for T in study.lengths if length > T]
    before = finished[_memory_key(study, party, max(shorter))] if shorter else {}
    if "ended" in before:
        return before
    arguments, warm_up = (study.arguments(party, T) for T in (length, min(8, length)))
    limit, peaks = int(plan.memory_gb * 1e9), []
    for _ in range(plan.memory_rounds):
        found = peak_in_a_process(study.work, arguments, warm_up, device, limit)
        if "ended" in found:
            return found | {"at": length}
        peaks.append(found["peak"])
    return {"peaks": peaks}


def measure_time(study: Study, length: int, plan: Plan, device: str, finished: FinishedWork) -> dict:
    """Return each party's seconds per call, in every round; without those whose memory ended."""
    works = {}
    for party in study.parties:
        key = _memory_key(study, party, length)
        if key not in finished or "peaks" in finished[key]:
            works[party] = study.work(**study.arguments(party, length), device=device)
    clock, clock_name = clock_of(device, plan)
    repeated = {
        party: lambda work=work: [work() for _ in range(study.calls)] for party, work in works.items()
    }
    times = interleaved(repeated, plan.rounds, clock, warm_up=1)
    seconds = {party: [each / study.calls for each in own] for party, own in times.items()}
    return {"seconds": seconds, "clock": clock_name}


def clock_of(device: str, plan: Plan) -> tuple[Callable[[], float], str]:
    """The clock that other programs disturb least, and its name."""
    if device == "cpu" and plan.threads == 1:
        return time.process_time, "processor time of one thread"
    return time.perf_counter, "time of the clock"


def count_kept(length: int, plan: Plan, device: str) -> dict[str, int]:
    """Bytes that each model keeps after reading so many tokens."""
    kept = {}
    for kind in READERS:
        model = make_model(kind, plan).to(device).eval()
        tokens = torch.zeros(1, length, dtype=torch.long, device=device)
        kept[kind] = kept_bytes(read(model, tokens)[1])
    return kept


def _memory_key(study: Study, party: str, length: int) -> str:
    return f"memory/{study.name}/{party}/{length}"


def _time_key(study: Study, length: int) -> str:
    return f"time/{study.name}/{length}"


def pieces(plan: Plan, device: str, finished: FinishedWork) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Everything there is to measure, name and work: memory first, because it says where time can be taken."""
    for study in studies(plan):
        if len(study.metrics) > 1 and method(device):
            for party, T in product(study.parties, study.lengths):
                arguments = (study, party, T, plan, device, finished)
                yield _memory_key(study, party, T), lambda given=arguments: measure_memory(*given)
        for T in study.lengths:
            arguments = (study, T, plan, device, finished)
            yield _time_key(study, T), lambda given=arguments: measure_time(*given)
    for S in plan.contexts:
        yield f"kept/{S}", lambda S=S: count_kept(S, plan, device)


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Run a profile; ``seeds`` is the number of timing rounds. Finished pieces are kept."""
    plan = PLANS[profile] if seeds is None else replace(PLANS[profile], rounds=seeds)
    done = setup_cpu(plan.threads) if device == "cpu" else {"threads": torch.get_num_threads()}
    conditions = {"plan": asdict(plan), "device": device, **done, "cpu": hardware()["cpu"], **versions()}
    finished = FinishedWork(unfinished_path(out, "attention", profile), conditions, resume)
    for name, work in tqdm(
        list(pieces(plan, device, finished)), desc="attention", unit="piece", disable=None
    ):
        if name not in finished:
            load, started = _load(), time.perf_counter()
            result = work()
            finished.add(name, {**result, "load": load, "duration_s": time.perf_counter() - started})
    return records(plan, finished)


def _load() -> float | None:
    """Processes that wanted to run during the last minute, this one among them; Windows does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


# ------------------------------------------------------------------------------------------- the records


def records(plan: Plan, finished: FinishedWork) -> list[Record]:
    """Turn all pieces into records."""
    models = {kind: parameter_count(make_model(kind, plan)) for kind in READERS}
    found = []
    for study in studies(plan):
        for party, T in product(study.parties, study.lengths):
            protocol = protocol_of(study, party, T, plan, finished, models)
            found += [*time_record(study, party, T, protocol, finished)]
            found += [*memory_record(study, party, T, protocol, finished)]
    return [*found, *kept_records(plan, finished, models)]


def protocol_of(
    study: Study, party: str, length: int, plan: Plan, finished: FinishedWork, models: dict[str, int]
) -> dict[str, Any]:
    """What a reader needs to repeat a measurement, without the sizes that do not enter it."""
    arguments = study.arguments(party, length)
    if "plan" in arguments:
        arguments.pop("plan")
        arguments |= model_sizes(plan) | {"parameters": models[party.split()[0]]}
    conditions = {key: value for key, value in finished.protocol.items() if key != "plan"}
    return {**arguments, "dtype": "float32", **conditions}


def model_sizes(plan: Plan) -> dict[str, Any]:
    """Of both language models; the LSTM's width follows from the number of parameters."""
    names = ("vocabulary_size", "size", "heads", "layers")
    return {name: getattr(plan, name) for name in names} | {"LSTM layers": LSTM_LAYERS}


def time_record(
    study: Study, party: str, length: int, protocol: dict, finished: FinishedWork
) -> list[Record]:
    """The time of each round, or tokens per second; none where memory had ended."""
    result = finished[_time_key(study, length)]
    if party not in result["seconds"]:
        return []
    unit, values = "ms", [1000 * seconds for seconds in result["seconds"][party]]
    if study.name == "training":
        tokens = finished.protocol["plan"]["tokens"] // length * length
        unit, values = "tokens/s", [tokens / seconds for seconds in result["seconds"][party]]
        protocol = protocol | {"tokens in a batch": tokens}
    order = "interleaved rounds in one process, order turning; the machine was not reserved"
    protocol = protocol | {"clock": result["clock"], "order": order}
    protocol = protocol | {"calls in a round": study.calls, "load before": result["load"]}
    return [_record(study, 0, party, length, unit, values, protocol, finished, result)]


def memory_record(
    study: Study, party: str, length: int, protocol: dict, finished: FinishedWork
) -> list[Record]:
    """The peak of one call; where memory ended at this length, how far it had sufficed."""
    key = _memory_key(study, party, length)
    if len(study.metrics) < 2 or key not in finished:
        return []
    result = finished[key]
    protocol = protocol | {
        "method": method(protocol["device"]),
        "limit_gb": finished.protocol["plan"]["memory_gb"],
    }
    if "peaks" in result:
        values = [peak / 1e6 for peak in result["peaks"]]
        return [_record(study, 1, party, length, "MB", values, protocol, finished, result)]
    if result["at"] != length:
        return []
    fitted = max((T for T in study.lengths if length > T), default=0)
    protocol = protocol | {"memory ended": result["ended"]}
    return [
        Record.measured(
            f"attention/{study.name}/longest that fitted/{party}",
            claim=study.claims[1],
            metric="longest length that fitted into memory",
            unit="positions",
            values=[fitted],
            protocol=protocol,
            duration_s=result["duration_s"],
            commit=finished.commit,
        )
    ]


def kept_records(plan: Plan, finished: FinishedWork, models: dict[str, int]) -> list[Record]:
    """Megabytes of cache and of state, counted."""
    return [
        Record.measured(
            f"attention/kept between tokens/{kind}/{S}",
            claim="C02",
            metric="memory kept between tokens",
            unit="MB",
            values=[finished[f"kept/{S}"][kind] / 1e6],
            protocol={"model": kind, "context": S, **model_sizes(plan), "parameters": models[kind]},
            duration_s=finished[f"kept/{S}"]["duration_s"],
            commit=finished.commit,
        )
        for S, kind in product(plan.contexts, READERS)
    ]


def _record(
    study: Study,
    which: int,
    party: str,
    length: int,
    unit: str,
    values: list[float],
    protocol: dict[str, Any],
    finished: FinishedWork,
    result: dict[str, Any],
) -> Record:
    return Record.measured(
        f"attention/{study.name}/{('time', 'memory')[which]}/{party}/{length}",
        claim=study.claims[which],
        metric=study.metrics[which],
        unit=unit,
        values=values,
        protocol=protocol,
        source=NOISE if study.name.startswith("layer") else RANDOM_TOKENS,
        duration_s=result["duration_s"],
        commit=finished.commit,
    )


BENCHMARK = Benchmark(
    name="attention",
    about="Attention and recurrence: time and memory against length, prefill, decoding, training (C01, C02, C07, C13).",
    cost={
        "smoke": "under a minute on one core; shows that it runs, says nothing about speed",
        "laptop": "about 8 minutes on an idle core, and 5 GB of memory at its peak",
        "full": "two hours on two idle cores and 32 GB, or minutes on a GPU",
    },
    run=run,
)
