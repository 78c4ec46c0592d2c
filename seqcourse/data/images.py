"""Loaders for images: handwritten digits, and films of them moving."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

import numpy as np
import torch

from seqcourse.data.loading import Files, real_or_generated
from seqcourse.data.source import Source
from seqcourse.data.types import DigitImages, MovingFrames


def load_mnist_digits(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> DigitImages:
    """The 10,000 handwritten digits of the MNIST test set.

    Shapes:
        images (10000, 28, 28), uint8; labels (10000,), int64.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import digit_images

    return real_or_generated("mnist", _read_mnist, digit_images, generated=generated, cache_dir=cache_dir)


def _read_mnist(files: Files, source: Source) -> DigitImages:
    images, labels = (read_idx(files[f"t10k-{kind}-ubyte.gz"]) for kind in ("images-idx3", "labels-idx1"))
    return DigitImages(images, labels.long(), source)


def read_idx(path: Path) -> torch.Tensor:
    """A gzip file of the IDX format of bytes: two zeros, type 8, number of axes, sizes, then the bytes.

    Raises:
        ValueError: The file is of another format.
    """
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name}: expected an IDX file of bytes, got one that begins {content[:4]!r}")
    axes = content[3]
    sizes = np.frombuffer(content, ">u4", count=axes, offset=4).tolist()
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(sizes)
    return torch.from_numpy(values.copy())


def load_moving_digits(
    n: int = 64,
    frames: int = 12,
    size: int = 32,
    seed: int = 0,
    *,
    digits: int = 2,
    generated: bool | None = None,
    cache_dir: str | Path | None = None,
) -> MovingFrames:
    """Films of handwritten digits that fly straight and bounce off the walls, made here from MNIST.

    Shapes:
        frames (n, T, 1, size, size), float32 in [0, 1].

    Source: after Srivastava et al., Unsupervised Learning of Video Representations using LSTMs, 2015.

    Args:
        n: Films.
        frames: T, frames per film.
        size: Height and width in pixels; digits are shrunk to at most half of it.
        seed: Same seed, same films.
        digits: Digits per film.
        generated: None: bouncing shapes only if MNIST cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        ValueError: A number is below 1, or `size` below 12.
        DataUnavailable: `generated` is False and MNIST cannot be had.
    """
    from seqcourse.data.generated import moving_shapes

    if size < 12:
        raise ValueError(f"size must be at least 12 pixels, got {size}")
    return real_or_generated(
        "mnist",
        functools.partial(_film, n=n, frames=frames, size=size, seed=seed, digits=digits),
        functools.partial(moving_shapes, n, frames, size, seed, shapes=digits),
        generated=generated,
        cache_dir=cache_dir,
    )


def _film(
    files: Files, source: Source, *, n: int, frames: int, size: int, seed: int, digits: int
) -> MovingFrames:
    from seqcourse.data.generated import bounce

    images = _read_mnist(files, source).images.float() / 255  # (k, 28, 28)
    edge = min(28, size // 2)
    sprites = torch.nn.functional.interpolate(images[:, None], size=(edge, edge), mode="area")[:, 0]
    films = bounce(sprites, n, frames, size, per_film=digits, generator=np.random.default_rng(seed))
    return MovingFrames(films, source)
