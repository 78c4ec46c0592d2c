"""One day ahead on the S&P 500: does a network beat "tomorrow is like today"? (claims N04, S12)

Walk-forward in windows of five years: the last year is forecast day by day, in four parts, and for each part
every model is trained anew on all days of the window before it. Errors are in index points. Networks read
either daily log returns, or, as many tutorials do, the level of the index, scaled by the training days.

The source of N04 names neither its five years nor its unit; so several windows are run, and the record shows
in which of them its figures could have come about.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.benchmarks.workers import finish
from seqcourse.data.batching import Scaler, TensorBatches, windows
from seqcourse.data.series import load_sp500
from seqcourse.data.source import Source
from seqcourse.data.types import PriceSeries
from seqcourse.metrics import diebold_mariano
from seqcourse.models.forecaster import Forecaster, TransformerForecaster
from seqcourse.records import Record
from seqcourse.training import fit

CLAIM = "N04"
PARTS = 4  # of the test year: a quarter each
NETWORKS = ("RNN", "LSTM", "GRU", "Transformer")
BASELINES = ("persistence", "drift", "autoregression", "boosted lags")
SERIES = ("returns", "levels")


@dataclass(frozen=True)
class Plan:
    """What a profile runs: windows by their first year, and how the networks are trained."""

    first_years: tuple[int, ...]
    seeds: int
    length: int = 20
    hidden_size: int = 32
    epochs: int = 40
    patience: int = 5
    batch_size: int = 64
    learning_rate: float = 1e-3
    lags: int = 5
    test_share: float = 0.2


PLANS = {
    "smoke": Plan((2000,), 1, hidden_size=4, epochs=1),
    "laptop": Plan((2000, 2005, 2010, 2015), 5),
    "full": Plan(tuple(range(2000, 2016)), 5),
}


# --- the forecasters: from the closes so far to a forecast of each day from `begin` on --------------------

Forecast = Callable[[Tensor, int], Tensor]


def log_returns(close: Tensor) -> Tensor:
    """Shapes: close (days,), result (days - 1,): entry t leads from day t to day t + 1."""
    return close.log().diff()


def persistence(close: Tensor, begin: int) -> Tensor:
    """Tomorrow is like today."""
    return close[begin - 1 : -1]


def drift(close: Tensor, begin: int) -> Tensor:
    """Tomorrow is today, and the mean growth of the training days."""
    return persistence(close, begin) * log_returns(close[:begin]).mean().exp()


def lagged(values: Tensor, lags: int) -> tuple[Tensor, Tensor]:
    """Shapes: values (n,); inputs (n - lags, lags), targets (n - lags,)."""
    cut = windows(values, lags)
    return cut.inputs.squeeze(2), cut.targets.squeeze(1)


def from_returns(predict: Callable[[Tensor, Tensor, Tensor], Tensor], close: Tensor, begin: int, lags: int):
    """Forecast closes by a model of returns: ``predict(training inputs, training targets, inputs)``."""
    inputs, targets = lagged(log_returns(close), lags)  # row i leads to day i + lags + 1
    first = begin - lags - 1
    return persistence(close, begin) * predict(inputs[:first], targets[:first], inputs[first:]).exp()


def autoregression(close: Tensor, begin: int, lags: int) -> Tensor:
    """Returns as a linear function of the last ones, by least squares."""

    def predict(inputs: Tensor, targets: Tensor, new: Tensor) -> Tensor:
        one = lambda x: torch.cat([x, x.new_ones(len(x), 1)], dim=1)  # noqa: E731
        # Directions that only rounding tells apart are left out.
        fitted = torch.linalg.lstsq(one(inputs), targets[:, None], rcond=1e-10, driver="gelsd")
        return one(new) @ fitted.solution.squeeze(1)

    return from_returns(predict, close, begin, lags)


def boosted_lags(close: Tensor, begin: int, lags: int) -> Tensor:
    """Returns by gradient-boosted trees on the last ones."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def predict(inputs: Tensor, targets: Tensor, new: Tensor) -> Tensor:
        trees = HistGradientBoostingRegressor(max_iter=100, learning_rate=0.05, max_depth=3, random_state=0)
        return torch.from_numpy(trees.fit(inputs.numpy(), targets.numpy()).predict(new.numpy()))

    return from_returns(predict, close, begin, lags)


def make_network(name: str, plan: Plan) -> nn.Module:
    """A network by its name in ``NETWORKS``."""
    if name == "Transformer":
        return TransformerForecaster(1, plan.hidden_size, heads=4, layers=1, max_length=plan.length)
    return Forecaster(1, plan.hidden_size, name.lower())


def network(close: Tensor, begin: int, name: str, series: str, seed: int, plan: Plan, device: str) -> Tensor:
    """Train a network on the days before ``begin``, the last tenth of them for stopping, and forecast."""
    values = log_returns(close) if series == "returns" else close[1:]  # entry t belongs to day t + 1
    scaler = Scaler.fit(values[: begin - 1])
    cut = windows(scaler.transform(values).float(), plan.length)
    first = begin - 1 - plan.length  # the window whose target is day `begin`
    stop = first - first // 10
    inputs, targets = cut.inputs.to(device), cut.targets.to(device)
    model = train_network(name, inputs[:first], targets[:first], stop, seed, plan)
    with torch.no_grad():
        predicted = scaler.inverse(model(inputs[first:]).cpu().double().squeeze(1))
    return persistence(close, begin) * predicted.exp() if series == "returns" else predicted


def train_network(name: str, inputs: Tensor, targets: Tensor, stop: int, seed: int, plan: Plan) -> nn.Module:
    """Train on the windows before ``stop``; keep the weights that are best on the others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_network(name, plan).to(inputs.device)
    batches = TensorBatches(inputs[:stop], targets[:stop], batch_size=plan.batch_size, seed=seed)
    fit(
        model,
        batches,
        epochs=plan.epochs,
        optimiser=torch.optim.AdamW(model.parameters(), lr=plan.learning_rate),
        clip=1.0,
        validate=[(inputs[stop:], targets[stop:])],
        patience=plan.patience,
        device=inputs.device,
        progress=False,
        seed=seed,
    )
    return model


# --- walking forward --------------------------------------------------------------------------------------


def years_at_hand(prices: PriceSeries, plan: Plan) -> list[int]:
    """The plan's windows whose last year has begun in the data: the stand-in for the prices is shorter."""
    return [year for year in plan.first_years if year + 4 <= int(prices.dates[-1][:4])]


def five_years(prices: PriceSeries, first_year: int) -> tuple[Tensor, str]:
    """The closes of five years, and their first and last day in words."""
    days = [i for i, date in enumerate(prices.dates) if first_year <= int(date[:4]) < first_year + 5]
    return prices.close[days], f"{prices.dates[days[0]]} to {prices.dates[days[-1]]}"


def walk_forward(forecast: Forecast, close: Tensor, test_share: float, parts: int = PARTS) -> Tensor:
    """Forecast the last share of the days in parts, each after training on everything before it.

    Shapes:
        close (days,); result (days,), NaN where nothing is forecast.
    """
    forecasts = torch.full_like(close, torch.nan)
    bounds = torch.linspace(len(close) * (1 - test_share), len(close), parts + 1).round().int().tolist()
    for begin, end in pairwise(bounds):
        forecasts[begin:end] = forecast(close[:end], begin)
    return forecasts


def forecaster(name: str, series: str, seed: int, plan: Plan, device: str) -> Forecast:
    """A forecaster by its name in ``BASELINES`` or ``NETWORKS``."""
    if name in NETWORKS:
        return lambda close, begin: network(close, begin, name, series, seed, plan, device)
    if name in ("persistence", "drift"):
        return {"persistence": persistence, "drift": drift}[name]
    by_lags = {"autoregression": autoregression, "boosted lags": boosted_lags}[name]
    return lambda close, begin: by_lags(close, begin, plan.lags)


@dataclass(frozen=True)
class Piece:
    """One forecaster in one window, with one seed."""

    first_year: int
    model: str
    series: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the file of finished work."""
        return f"{self.first_year}/{self.model}/{self.series}/{self.seed}"


def pieces(first_years: list[int], seeds: int) -> list[Piece]:
    """All runs in these windows; what has no randomness runs once."""
    simple = [Piece(year, name, "closes", 0) for year in first_years for name in BASELINES]
    return simple + [Piece(*choice) for choice in product(first_years, NETWORKS, SERIES, range(seeds))]


def measure(piece: Piece, prices: PriceSeries, plan: Plan, device: str) -> dict[str, Any]:
    """The errors of a forecaster over the test year, and those of persistence, in index points."""
    started = time.perf_counter()
    close, days = five_years(prices, piece.first_year)
    forecast = forecaster(piece.model, piece.series, piece.seed, plan, device)
    errors = walk_forward(forecast, close, plan.test_share) - close
    return {
        "errors": errors[~errors.isnan()].tolist(),
        "days": days,
        "seconds": time.perf_counter() - started,
    }


# --- records ----------------------------------------------------------------------------------------------


def rmse(errors: list[float]) -> float:
    """Root of the mean squared error."""
    return torch.tensor(errors, dtype=torch.float64).square().mean().sqrt().item()


def versus_persistence(errors: list[list[float]], reference: list[float]) -> dict[str, Any]:
    """The Diebold-Mariano test of the forecast averaged over the seeds against persistence."""
    mean = torch.tensor(errors, dtype=torch.float64).mean(dim=0)
    other = torch.tensor(reference, dtype=torch.float64)
    test = diebold_mariano(mean, other)
    return {"Diebold-Mariano statistic": test.statistic, "Diebold-Mariano p": test.p_value}


def window_record(chosen: list[Piece], finished: FinishedWork, source: Source, plan: Plan) -> Record:
    """The RMSE of one forecaster in one window, one value per seed."""
    first, results = chosen[0], [finished[piece.key] for piece in chosen]
    errors = [result["errors"] for result in results]
    reference = finished[Piece(first.first_year, "persistence", "closes", 0).key]["errors"]
    tested = {} if first.model == "persistence" else versus_persistence(errors, reference)
    return Record.measured(
        f"forecasting/{first.first_year}/{first.model} on {first.series}",
        claim=CLAIM,
        metric="RMSE one day ahead",
        unit="index points",
        values=[rmse(each) for each in errors],
        protocol={
            "model": first.model,
            "series": first.series,
            "window": results[0]["days"],
            "test": f"the last {plan.test_share:.0%} of the days, in {PARTS} parts, trained anew for each",
            "test days": len(errors[0]),
            "RMSE of persistence": rmse(reference),
            **tested,
            "seeds": [piece.seed for piece in chosen],
            "plan": asdict(plan),
        },
        source=source,
        commit=finished.commit,
        duration_s=sum(result["seconds"] for result in results),
    )


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Run a profile; each finished piece is stored at once, and a resumed run does only the others."""
    plan = PLANS[profile]
    return run_plan(plan, seeds or plan.seeds, device, resume, unfinished_path(out, "forecasting", profile))


def run_plan(plan: Plan, seeds: int, device: str, resume: bool, path: Path) -> list[Record]:
    """As :func:`run`, for any plan and any file of finished work."""
    prices = load_sp500()
    chosen = pieces(years_at_hand(prices, plan), seeds)
    protocol = {"plan": asdict(plan), "device": device, "data": prices.source.sha256}
    finished = FinishedWork(path, protocol, resume)
    work = partial(measure, prices=prices, plan=plan, device=device)
    finish(finished, {piece.key: piece for piece in chosen}, work, "forecasting")
    groups: dict[tuple, list[Piece]] = {}
    for piece in chosen:
        groups.setdefault((piece.first_year, piece.model, piece.series), []).append(piece)
    return [window_record(group, finished, prices.source, plan) for group in groups.values()]


BENCHMARK = Benchmark(
    name="forecasting",
    about="The S&P 500 one day ahead, walk-forward, against persistence and other simple forecasts (N04).",
    cost={
        "smoke": "under 20 seconds on one core",
        "laptop": "about 30 minutes on one core; four windows of five years, 5 seeds",
        "full": "about two hours on one core; every window of five years, 5 seeds",
    },
    run=run,
    shared=True,
)
