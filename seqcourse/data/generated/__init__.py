"""Generated stand-ins: small data of ours, made from a seed, for when the real data cannot be had.

They return the same types as the loaders, so every chapter runs on them, but they are not the real data, and
what is measured on them says nothing about it: ``.source.generated`` is True, and cards and records show it.
All text comes from grammars written for this course. Same arguments, same data.
"""

from __future__ import annotations

from seqcourse.data.generated.documents import dialogues, encyclopedia, summaries
from seqcourse.data.generated.images import bounce, digit_images, moving_shapes
from seqcourse.data.generated.reviews import reviews
from seqcourse.data.generated.series import patients, prices, sensor_streams, vowel_series
from seqcourse.data.generated.speech import spoken_digits
from seqcourse.data.generated.tagging import tagged_sentences
from seqcourse.data.generated.translation import toy_translation
from seqcourse.data.generated.verse import verse

__all__ = [
    "bounce",
    "dialogues",
    "digit_images",
    "encyclopedia",
    "moving_shapes",
    "patients",
    "prices",
    "reviews",
    "sensor_streams",
    "spoken_digits",
    "summaries",
    "tagged_sentences",
    "toy_translation",
    "verse",
    "vowel_series",
]
