"""Loader for sound: spoken digits."""

from __future__ import annotations

import io
import tarfile
import wave
from pathlib import Path

import numpy as np
import torch

from seqcourse.data.loading import Files, real_or_generated
from seqcourse.data.source import Source
from seqcourse.data.types import SpokenDigits


def load_spoken_digits(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> SpokenDigits:
    """3,000 recordings of the digits 0 to 9 by six speakers, 8 kHz, in the official split.

    Recordings 0 to 4 of each digit and speaker are the test (300), the others are for training (2,700). The
    speakers are the same in both.

    Shapes:
        waveform (T,), float32 in [-1, 1].

    Source: Jackson et al., Free Spoken Digit Dataset, release 1.0.10.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import spoken_digits

    return real_or_generated("fsdd", _read_fsdd, spoken_digits, generated=generated, cache_dir=cache_dir)


def _read_fsdd(files: Files, source: Source) -> SpokenDigits:
    train, test = [], []
    with tarfile.open(files["recordings.tar.gz"]) as archive:
        for member in archive:
            digit, _, number = Path(member.name).stem.split("_")
            sound = archive.extractfile(member).read()  # read, never extracted to a path
            (test if int(number) < 5 else train).append((read_wav(sound), int(digit)))
    return SpokenDigits(train, test, source)


def read_wav(content: bytes) -> torch.Tensor:
    """The waveform (T,) of a one-channel 16-bit wav file, in [-1, 1].

    Raises:
        ValueError: Another number of channels or bits.
    """
    with wave.open(io.BytesIO(content)) as sound:
        form = (sound.getnchannels(), 8 * sound.getsampwidth())
        if form != (1, 16):
            raise ValueError(f"expected one channel of 16 bits, got {form[0]} of {form[1]} bits")
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    return torch.from_numpy(samples.astype(np.float32) / 32768)
