"""Spoken-digit-like recordings: a buzz with two moving formants, a path per digit, a voice per speaker."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from seqcourse.data.generated.common import check_size, generated_source
from seqcourse.data.types import SpokenDigits

SAMPLE_RATE = 8000


class Digit(NamedTuple):
    """First and second formant in hertz, from the beginning to the end of the word, and its duration."""

    first: tuple[int, int]
    second: tuple[int, int]
    seconds: float


DIGITS = (
    Digit((300, 500), (2100, 900), 0.45),
    Digit((350, 650), (800, 1300), 0.35),
    Digit((350, 300), (1500, 900), 0.30),
    Digit((300, 280), (1300, 2300), 0.35),
    Digit((600, 550), (1000, 900), 0.35),
    Digit((750, 400), (1200, 2000), 0.45),
    Digit((400, 350), (2000, 1900), 0.40),
    Digit((550, 450), (1800, 1400), 0.45),
    Digit((500, 300), (1900, 2300), 0.30),
    Digit((700, 350), (1250, 2200), 0.50),
)


class Voice(NamedTuple):
    """Pitch in hertz, and a factor on all formants (a shorter throat raises them)."""

    pitch: float
    formants: float


def spoken_digits(n: int = 4, seed: int = 0, *, speakers: int = 6) -> SpokenDigits:
    """Synthesise digits as formant chirps: harmonics of a pitch, loud near one of two moving formants.

    Args:
        n: recordings of each digit by each speaker; the first quarter (at least one) is for testing.
        seed: same seed, same recordings.
        speakers: voices.

    Returns:
        Recordings (T,) of 0.2 to 0.7 s at 8 kHz, with the digit.

    Raises:
        ValueError: if ``n`` is below 2 or ``speakers`` below 1.
    """
    check_size(2, n=n)
    check_size(1, speakers=speakers)
    rng = np.random.default_rng([seed, 5])
    voices = [Voice(rng.uniform(90, 220), rng.uniform(0.88, 1.15)) for _ in range(speakers)]
    train, test = [], []
    for recording in range(n):
        part = test if recording < max(1, n // 4) else train
        part += [(_say(DIGITS[digit], voice, rng), digit) for voice in voices for digit in range(10)]
    note = (
        f"{n} synthetic takes of each digit in each of {speakers} made-up voices, seed {seed}; nobody speaks."
    )
    return SpokenDigits(train, test, generated_source("spoken digits", note, [train, test]), SAMPLE_RATE)


def _say(digit: Digit, voice: Voice, rng: np.random.Generator) -> torch.Tensor:
    steps = int(SAMPLE_RATE * digit.seconds * rng.uniform(0.8, 1.25))
    part = np.linspace(0, 1, steps)  # how much of the word has passed
    pitch = voice.pitch * rng.uniform(0.92, 1.08) * (1.1 - 0.2 * part)  # voices fall towards the end
    phase = 2 * np.pi * (np.cumsum(pitch) / SAMPLE_RATE % 1)
    wobble = voice.formants * rng.uniform(0.96, 1.04, 2)
    formants = [
        wobble[i] * np.interp(part, [0, 1], path) for i, path in enumerate((digit.first, digit.second))
    ]
    harmonics = np.arange(1, int(3000 / voice.pitch), dtype=np.float32)[:, None]  # (harmonics, 1)
    tones = harmonics * pitch.astype(np.float32)  # (harmonics, T) in hertz
    loudness = sum(np.exp(-(((tones - formant.astype(np.float32)) / 150) ** 2)) for formant in formants)
    wave = (loudness * np.sin(harmonics * phase.astype(np.float32))).sum(0) * np.sin(np.pi * part) ** 0.5
    wave = wave / np.abs(wave).max() * rng.uniform(0.4, 0.9) + 0.01 * rng.standard_normal(steps)
    return torch.from_numpy(wave.clip(-1, 1)).float()
