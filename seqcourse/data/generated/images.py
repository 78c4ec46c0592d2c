"""Digit images drawn from seven segments, and short films of shapes that bounce off the walls."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from seqcourse.data.generated.common import check_size, generated_source
from seqcourse.data.types import DigitImages, MovingFrames

# --- digits ----------------------------------------------------------------------------------------

# End points of the seven segments in a box of width 1 and height 2; which of them make up each digit.
SEGMENTS = np.array(
    [
        [(0, 0), (1, 0)],  # 0 top
        [(0, 0), (0, 1)],  # 1 upper left
        [(1, 0), (1, 1)],  # 2 upper right
        [(0, 1), (1, 1)],  # 3 middle
        [(0, 1), (0, 2)],  # 4 lower left
        [(1, 1), (1, 2)],  # 5 lower right
        [(0, 2), (1, 2)],  # 6 bottom
    ],
    dtype=float,
)
DIGIT_SEGMENTS = ("012456", "25", "02346", "02356", "1235", "01356", "013456", "025", "0123456", "012356")


def digit_images(n: int = 1000, seed: int = 0) -> DigitImages:
    """Draw digits from seven segments, with random size, slant, place and pen.

    Args:
        n: images; the digits take turns.
        seed: same seed, same images.

    Raises:
        ValueError: if ``n`` is below 1.
    """
    check_size(1, n=n)
    rng = np.random.default_rng([seed, 6])
    labels = torch.arange(n) % 10
    images = torch.from_numpy(np.stack([_draw(digit, rng) for digit in labels.tolist()]))
    note = f"{n} digits drawn from seven segments, seed {seed}; nobody's handwriting."
    return DigitImages(images, labels, generated_source("digit images", note, [images, labels]))


def _draw(digit: int, rng: np.random.Generator) -> np.ndarray:
    segments = SEGMENTS[[int(s) for s in DIGIT_SEGMENTS[digit]]]  # (k, 2 ends, 2)
    size, slant, pen = rng.uniform(7, 9), rng.uniform(-0.1, 0.3), rng.uniform(0.9, 1.5)
    ends = (segments - [0.5, 1]) * size  # centred
    ends[..., 0] -= slant * ends[..., 1]
    ends += 13.5 + rng.uniform(-1.5, 1.5, 2)
    rows, columns = np.mgrid[0:28, 0:28]
    points = np.stack([columns, rows], -1).reshape(-1, 2)  # (784, 2)
    ink = 1 / (1 + np.exp(4 * (_distance(points, ends) - pen)))
    return (255 * ink).round().astype(np.uint8).reshape(28, 28)


def _distance(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Distance of each point (p, 2) to the nearest of the segments (k, 2, 2)."""
    begin, along = ends[:, 0], ends[:, 1] - ends[:, 0]  # (k, 2)
    offset = points[:, None] - begin  # (p, k, 2)
    share = ((offset * along).sum(-1) / (along**2).sum(-1)).clip(0, 1)
    return np.linalg.norm(offset - share[..., None] * along, axis=-1).min(1)


# --- moving shapes ---------------------------------------------------------------------------------


def moving_shapes(
    n: int = 64, frames: int = 12, size: int = 32, seed: int = 0, *, shapes: int = 2
) -> MovingFrames:
    """Film shapes (disc, ring, square, cross, triangle) that fly straight and bounce off the walls.

    Shapes:
        returns frames (n, T, 1, size, size), float32 in [0, 1].

    Args:
        n: films.
        frames: T, frames per film.
        size: height and width in pixels.
        seed: same seed, same films.
        shapes: shapes per film.

    Raises:
        ValueError: if a number is below 1, or ``size`` below 12.
    """
    check_size(12, size=size)
    rng = np.random.default_rng([seed, 7])
    films = bounce(_sprites(max(5, size // 3)), n, frames, size, per_film=shapes, generator=rng)
    note = f"{n} films of {shapes} bouncing shapes, seed {seed}."
    return MovingFrames(films, generated_source("moving shapes", note, films))


def bounce(
    sprites: Tensor, n: int, frames: int, size: int, *, per_film: int = 2, generator: np.random.Generator
) -> Tensor:
    """Let sprites fly through square frames and bounce off the walls; where they overlap, the brighter shows.

    Shapes:
        sprites (k, h, w), float32 in [0, 1]; returns films (n, T, 1, size, size) of the same.

    Args:
        sprites: pictures to choose from, smaller than the frame.
        n: films.
        frames: T, frames per film.
        size: height and width of a frame in pixels.
        per_film: sprites per film.
        generator: decides on sprites, places and speeds.

    Raises:
        ValueError: if a number is below 1, or the sprites do not fit into the frame.
    """
    check_size(1, n=n, frames=frames, per_film=per_film)
    height, width = sprites.shape[1:]
    room = np.array([size - height, size - width])
    if room.min() < 1:
        raise ValueError(f"sprites of {height} x {width} have no room to move in frames of {size} x {size}")
    films = torch.zeros(n, frames, 1, size, size)
    for film in films:
        for _ in range(per_film):
            sprite = sprites[int(generator.integers(len(sprites)))]
            for frame, (row, column) in zip(film, _flight(frames, room, size, generator), strict=True):
                seen = frame[0, row : row + height, column : column + width]  # a view: written in place
                torch.maximum(seen, sprite, out=seen)
    return films


def _flight(frames: int, room: np.ndarray, size: int, generator: np.random.Generator) -> list[list[int]]:
    """Whole-pixel places (row, column) of a sprite's corner: straight lines folded back at the walls."""
    begin = generator.uniform(0, 1, 2) * room
    angle, speed = generator.uniform(0, 2 * np.pi), size * generator.uniform(0.03, 0.08)
    straight = begin + np.arange(frames)[:, None] * speed * np.array([np.sin(angle), np.cos(angle)])  # (T, 2)
    return (room - np.abs(straight % (2 * room) - room)).round().astype(int).tolist()


def _sprites(size: int) -> Tensor:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    radius = torch.sqrt(x**2 + y**2)
    shapes = (
        radius <= 1,  # disc
        (radius <= 1) & (radius >= 0.6),  # ring
        torch.maximum(x.abs(), y.abs()) <= 0.85,  # square
        torch.minimum(x.abs(), y.abs()) <= 0.3,  # cross
        x.abs() <= (y + 1) / 2,  # triangle
    )
    return torch.stack(shapes).float()
