"""A query and a key whose positions are sliders: what rotation does to their score."""

from __future__ import annotations

import traitlets

from seqcourse.explorables.base import FOLDER, Explorable


class RotaryScore(Explorable):
    """The score of one query and one key of eight features, by their positions.

    The arithmetic is that of :class:`seqcourse.attention.RotaryPositions`,
    :func:`seqcourse.attention.sinusoids` and :func:`seqcourse.attention.scaled_dot_product`; a test compares
    them.

    Args:
        query: the query before it is turned.
        key: the key before it is turned.
        query_position: where the query stands.
        key_position: where the key stands.
        shift: added to both positions.
        base_exponent: the base of the frequencies is ten to this power.
    """

    _esm = FOLDER / "rotary.mjs"
    label = "Rotary positions: score by distance"
    alternative = (
        "A query and a key of eight features with sliders for their positions. Rotary positions turn each "
        "pair of features, so the score changes with the distance of the two and stays as it is when both "
        "move together; with sinusoidal codes added it changes in both cases, without positions in neither."
    )

    query = traitlets.List(traitlets.Float(), [1.0, 0.0] * 4, minlen=8, maxlen=8).tag(sync=True)
    key = traitlets.List(traitlets.Float(), [1.0, 0.0] * 4, minlen=8, maxlen=8).tag(sync=True)
    query_position = traitlets.Int(12).tag(sync=True)
    key_position = traitlets.Int(8).tag(sync=True)
    shift = traitlets.Int(0).tag(sync=True)
    base_exponent = traitlets.Float(2.0).tag(sync=True)
