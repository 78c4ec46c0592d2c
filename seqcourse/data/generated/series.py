"""Numbers in time: prices with regimes, patients, sensor streams with anomalies, vowel-like series."""

from __future__ import annotations

import math

import numpy as np
import torch

from seqcourse.data.generated.common import check_size, generated_source, split
from seqcourse.data.types import Patients, PatientStay, PriceSeries, SeriesClassification, Stream, Streams

# --- prices ----------------------------------------------------------------------------------------

# Daily drift and volatility of log prices in the calm and in the turbulent regime, and how long each lasts.
DRIFT = np.array([0.0006, -0.0010])
VOLATILITY = np.array([0.006, 0.022])
MEAN_DAYS = np.array([120, 30])
DEGREES_OF_FREEDOM = 4  # Student's t: heavy tails
HOLIDAYS = ("01-01", "07-04", "12-25")


def prices(n: int = 2500, seed: int = 0) -> PriceSeries:
    """Simulate daily prices that switch between a calm and a turbulent regime, with heavy-tailed returns.

    Returns cannot be forecast from the past beyond their small drift; their volatility can, for it comes in
    clusters. Persistence is therefore hard to beat, as it is on real prices.

    Source: regime switching after Hamilton 1989.

    Args:
        n: trading days, from 2000-01-03 on, without weekends and three fixed holidays.
        seed: same seed, same prices.

    Raises:
        ValueError: if ``n`` is below 2.
    """
    check_size(2, n=n)
    rng = np.random.default_rng([seed, 1])
    regime = _regimes(n, rng)
    shocks = rng.standard_t(DEGREES_OF_FREEDOM, n) / math.sqrt(DEGREES_OF_FREEDOM / (DEGREES_OF_FREEDOM - 2))
    close = 1400 * np.exp(np.cumsum(DRIFT[regime] + VOLATILITY[regime] * shocks))
    reach = VOLATILITY[regime] * np.abs(rng.standard_normal((2, n)))  # how far the day went beyond its close
    volume = 1e9 * np.exp(0.5 * regime + 0.2 * rng.standard_normal(n))
    columns = (close, close * np.exp(reach[0]), close * np.exp(-reach[1]), volume)
    close, high, low, volume = (torch.from_numpy(column.round(2)) for column in columns)
    dates = _trading_days(n)
    note = f"{n} days of simulated prices that switch between a calm and a turbulent regime, seed {seed}."
    source = generated_source("prices", note, [dates, close, high, low, volume])
    return PriceSeries(dates, close, high, low, volume, source)


def _regimes(n: int, rng: np.random.Generator) -> np.ndarray:
    """A two-state Markov chain, 0 calm and 1 turbulent, as runs of geometric length."""
    runs: list[int] = []
    while len(runs) < n:
        regime = 1 - runs[-1] if runs else 0
        runs += [regime] * int(rng.geometric(1 / MEAN_DAYS[regime]))
    return np.array(runs[:n])


def _trading_days(n: int) -> list[str]:
    days = np.arange("2000-01-03", np.datetime64("2000-01-03") + 2 * n + 7, dtype="datetime64[D]")
    days = days[np.is_busday(days)].astype(str)
    return [day for day in days.tolist() if day[5:] not in HOLIDAYS][:n]


# --- patients --------------------------------------------------------------------------------------

# Vital sign -> (usual value, spread between people, change towards the bad as a patient worsens, noise).
VITALS = {
    "HR": (85, 10, 35, 5),
    "NISysABP": (120, 12, -40, 6),
    "RespRate": (18, 2, 12, 2),
    "Temp": (37, 0.3, 1.2, 0.2),
    "GCS": (14, 1, -7, 0.5),
    "Lactate": (1.5, 0.3, 5, 0.3),
    "Glucose": (130, 15, 30, 12),
    "Urine": (100, 20, -70, 15),
}
FREQUENT = ("HR", "NISysABP", "RespRate")  # by monitor; the others are measured now and then


def patients(n: int = 400, seed: int = 0) -> Patients:
    """Simulate two days in intensive care: irregular, mostly missing measurements of eight vital signs.

    Some patients worsen towards the end of the stay, and the more they do, the likelier they die: the trend
    tells more than the mean.

    Args:
        n: stays; 60 % for training, 20 % for validation, the rest for testing.
        seed: same seed, same patients.

    Raises:
        ValueError: if ``n`` is below 10.
    """
    check_size(10, n=n)
    rng = np.random.default_rng([seed, 2])
    parts = split([_stay(i, rng) for i in range(n)], [0.6, 0.2])
    note = f"{n} simulated stays in intensive care, seed {seed}; no patient is real."
    return Patients(*parts, parameters=list(VITALS), source=generated_source("patients", note, parts))


def _stay(record_id: int, rng: np.random.Generator) -> PatientStay:
    severity = rng.beta(0.6, 1.6)
    died = int(rng.random() < 1 / (1 + math.exp(5 - 9 * severity)))
    minutes = np.unique(rng.integers(0, 48 * 60, rng.integers(30, 80)))  # (T,)
    worsening = severity * (minutes / (48 * 60)) ** 2
    usual, spread, change, noise = np.array(list(VITALS.values())).T  # (F,) each
    baseline = usual + spread * rng.standard_normal(len(VITALS))
    values = baseline + change * worsening[:, None] + noise * rng.standard_normal((len(minutes), len(VITALS)))
    share = [0.8 if name in FREQUENT else 0.15 for name in VITALS]
    values[rng.random(values.shape) > share] = np.nan  # (T, F)
    measured = ~np.isnan(values).all(1)
    minutes, values = (torch.from_numpy(a[measured]).float() for a in (minutes, values))
    return PatientStay(record_id, minutes, values, died)


# --- streams ---------------------------------------------------------------------------------------


def sensor_streams(n: int = 6, seed: int = 0, *, steps: int = 2016) -> Streams:
    """Simulate sensor streams with a daily and a weekly rhythm, in which spikes, shifts and silence occur.

    Args:
        n: streams.
        seed: same seed, same streams.
        steps: T, half hours from 2014-01-01 on.

    Returns:
        Streams with three anomalies each, the labelled windows reaching a little beyond them.

    Raises:
        ValueError: if ``n`` is below 1 or ``steps`` below 336 (a week).
    """
    check_size(1, n=n)
    check_size(336, steps=steps)
    rng = np.random.default_rng([seed, 3])
    start = np.datetime64("2014-01-01T00:00:00")
    stamps = [str(s).replace("T", " ") for s in start + np.arange(steps) * np.timedelta64(30, "m")]
    series = {f"generated/sensor_{i}.csv": _stream(stamps, rng) for i in range(n)}
    note = f"{n} simulated sensor streams with three planted anomalies each, seed {seed}."
    return Streams(series, generated_source("sensor streams", note, series))


def _stream(stamps: list[str], rng: np.random.Generator) -> Stream:
    t = np.arange(len(stamps))
    values = 50 + 10 * np.sin(2 * np.pi * t / 48 + rng.uniform(0, 6)) + 4 * np.sin(2 * np.pi * t / 336)
    values += rng.standard_normal(len(t))
    # One anomaly in each of the last three quarters; the first stays clean, to learn what is normal.
    quarter = len(t) // 4
    begins = [k * quarter + int(rng.integers(quarter // 4, quarter // 2)) for k in (1, 2, 3)]
    for begin, plant in zip(begins, rng.permutation([_spike, _shift, _silence]), strict=True):
        plant(values, begin, rng)
    windows = [(stamps[begin - 6], stamps[begin + 30]) for begin in begins]
    return Stream(stamps, torch.from_numpy(values), windows)


def _spike(values: np.ndarray, begin: int, rng: np.random.Generator) -> None:
    values[begin : begin + 2] += rng.choice([-1, 1]) * rng.uniform(25, 40)


def _shift(values: np.ndarray, begin: int, rng: np.random.Generator) -> None:
    values[begin : begin + 24] += rng.choice([-1, 1]) * rng.uniform(12, 20)


def _silence(values: np.ndarray, begin: int, rng: np.random.Generator) -> None:
    values[begin : begin + 24] = values[begin]


# --- multivariate series of varying length ---------------------------------------------------------


def vowel_series(
    n: int = 300, seed: int = 0, *, classes: int = 9, features: int = 12
) -> SeriesClassification:
    """Simulate short series of cepstrum-like coefficients, one characteristic path per speaker.

    Args:
        n: series; the first 60 % are for training.
        seed: same seed, same series.
        classes: K speakers.
        features: D coefficients per step.

    Returns:
        Series (T, D), T from 7 to 29, with the class index; the classes take turns.

    Raises:
        ValueError: if ``n`` is below ``2 * classes``.
    """
    check_size(2 * classes, n=n)
    rng = np.random.default_rng([seed, 4])
    corners = rng.standard_normal((classes, 3, features)) * 0.5  # a path has a beginning, a middle, an end
    pairs = [(_path(corners[i % classes], rng), i % classes) for i in range(n)]
    parts = split(pairs, [0.6])
    note = f"{n} simulated coefficient series of {classes} speakers, seed {seed}."
    names = [f"speaker {k + 1}" for k in range(classes)]
    return SeriesClassification(*parts, classes=names, source=generated_source("vowel series", note, parts))


def _path(corners: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Follow the speaker's path at an own pace, bent by this utterance and by noise."""
    steps = int(rng.integers(7, 30))
    bent = corners + 0.25 * rng.standard_normal(corners.shape)  # (3, D)
    position = 2 * np.linspace(0, 1, steps) ** rng.uniform(0.7, 1.4)
    path = np.stack([np.interp(position, [0, 1, 2], column) for column in bent.T], 1)  # (T, D)
    return torch.from_numpy(path + 0.1 * rng.standard_normal(path.shape)).float()
