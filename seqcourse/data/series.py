"""Loaders for numbers in time: prices, streams with anomalies, patients, series of varying length."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch

from seqcourse.data.loading import Files, read_text, real_or_generated
from seqcourse.data.source import Source
from seqcourse.data.types import (
    Patients,
    PatientStay,
    PriceSeries,
    SeriesClassification,
    Stream,
    Streams,
)

# --- prices ----------------------------------------------------------------------------------------


def load_sp500(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> PriceSeries:
    """Daily S&P 500 index, 5,105 trading days from 2000-01-03 to 2020-04-17.

    The opening price is left out: before 2014 the source often repeats the close of the day before.

    Shapes:
        close, high, low, volume (T,), float64.

    Source: vega-datasets, from Yahoo Finance (^GSPC).

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import prices

    return real_or_generated("sp500", _read_sp500, prices, generated=generated, cache_dir=cache_dir)


def _read_sp500(files: Files, source: Source) -> PriceSeries:
    rows = list(csv.DictReader(read_text(files["sp500-2000.csv"]).split("\n")))
    columns = {
        name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        for name in ("close", "high", "low", "volume")
    }
    return PriceSeries(dates=[row["date"] for row in rows], **columns, source=source)


# --- streams ---------------------------------------------------------------------------------------


def load_nab(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> Streams:
    """58 streams (server load, traffic, taxi rides, tweets, ...) with labelled anomaly windows.

    Source: Lavin and Ahmad, Numenta Anomaly Benchmark, 2015. Some labels are contested (Wu and Keogh, 2021).

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import sensor_streams

    return real_or_generated("nab", _read_nab, sensor_streams, generated=generated, cache_dir=cache_dir)


def _read_nab(files: Files, source: Source) -> Streams:
    windows = json.loads(read_text(files["labels/combined_windows.json"]))
    series = {name: _read_stream(files[f"data/{name}"], windows[name]) for name in windows}
    return Streams(series, source)


def _read_stream(path: Path, windows: list[list[str]]) -> Stream:
    rows = [line.split(",") for line in read_text(path).split("\n")[1:] if line]
    values = torch.tensor([float(value) for _, value in rows], dtype=torch.float64)
    # The labels write microseconds (always zero), the streams do not; cut, so that they compare as text.
    return Stream([stamp for stamp, _ in rows], values, [(first[:19], last[:19]) for first, last in windows])


# --- patients --------------------------------------------------------------------------------------


# What is measured: four facts at admission and weight, then vital signs and laboratory values.
PARAMETERS = (
    *("Age", "Gender", "Height", "ICUType", "Weight"),
    *("ALP", "ALT", "AST", "Albumin", "BUN", "Bilirubin", "Cholesterol", "Creatinine"),
    *("DiasABP", "FiO2", "GCS", "Glucose", "HCO3", "HCT", "HR", "K"),
    *("Lactate", "MAP", "MechVent", "Mg", "NIDiasABP", "NIMAP", "NISysABP", "Na"),
    *("PaCO2", "PaO2", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI"),
    *("TroponinT", "Urine", "WBC", "pH"),
)
_COLUMN = {name: column for column, name in enumerate(PARAMETERS)}


def load_physionet2012(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> Patients:
    """12,000 stays in intensive care, first 48 hours; sets a, b and c are train, validation and test.

    The label is death in hospital, about 14 %. The other outcomes of the source (length of stay, survival,
    severity scores) leak it and are not read. The code -1 (missing) becomes NaN; physiologically impossible
    values are kept, as found.

    Shapes:
        minutes (T,), values (T, F), float32, for each stay.

    Source: Silva et al., PhysioNet/Computing in Cardiology Challenge 2012; Goldberger et al., 2000.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import patients

    return real_or_generated(
        "physionet2012", _read_physionet, patients, generated=generated, cache_dir=cache_dir
    )


def _read_physionet(files: Files, source: Source) -> Patients:
    parts = [_read_stays(files[f"set-{name}.csv.gz"], files[f"Outcomes-{name}.txt"]) for name in "abc"]
    return Patients(*parts, parameters=[*PARAMETERS], source=source)


def _read_stays(table: Path, outcomes: Path) -> list[PatientStay]:
    deaths = {
        row["RecordID"]: int(row["In-hospital_death"])
        for row in csv.DictReader(read_text(outcomes).strip().split("\n"))
    }
    rows = csv.reader(io.StringIO(read_text(table)))
    next(rows)  # the header
    return [_stay(int(record), part, deaths[record]) for record, part in groupby(rows, key=itemgetter(0))]


def _stay(record_id: int, rows: Iterable[list[str]], died: int) -> PatientStay:
    _, minute, parameter, value = zip(*rows, strict=True)
    minutes, row = np.unique(np.array(list(map(int, minute))), return_inverse=True)  # (T,)
    # The last column is for what is no measurement: RecordID, and a few rows of set c without a name.
    column = [_COLUMN.get(name, len(PARAMETERS)) for name in parameter]
    values = np.full((len(minutes), len(PARAMETERS) + 1), np.nan, dtype=np.float32)  # (T, F + 1)
    values[row, column] = list(map(float, value))
    values = torch.from_numpy(values[:, :-1].copy())  # (T, F)
    values[values == -1] = torch.nan
    return PatientStay(record_id, torch.from_numpy(minutes.astype(np.float32)), values, died)


# --- series of varying length ----------------------------------------------------------------------


def load_japanese_vowels(
    *, generated: bool | None = None, cache_dir: str | Path | None = None
) -> SeriesClassification:
    """Which of nine speakers says /ae/: 12 channels, 7 to 29 steps, 270 series for training and 370 for test.

    Shapes:
        series (T, 12), float32.

    Source: Kudo, Toyama and Shimbo, 1999; UCI Japanese Vowels.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import vowel_series

    return real_or_generated(
        "uea_japanesevowels", _read_vowels, vowel_series, generated=generated, cache_dir=cache_dir
    )


def _read_vowels(files: Files, source: Source) -> SeriesClassification:
    texts = [read_text(files[f"JapaneseVowels_{split}.ts"]) for split in ("TRAIN", "TEST")]
    classes = next(line for line in texts[0].split("\n") if line.startswith("@classLabel")).split()[2:]
    train, test = (list(read_ts(text, classes)) for text in texts)
    return SeriesClassification(train, test, [f"speaker {name}" for name in classes], source)


def read_ts(text: str, classes: list[str]) -> Iterator[tuple[torch.Tensor, int]]:
    """Series (T, D) and class index from a file of the .ts format: channels between ":", the class last."""
    _, data = text.split("@data\n", 1)
    for line in data.strip().split("\n"):
        *channels, label = line.strip().split(":")
        rows = [[float(value) for value in channel.split(",")] for channel in channels]  # D lists of T
        yield torch.tensor(rows).T.contiguous(), classes.index(label)  # (T, D)
