"""Models by job, one file each; the recurrent layer inside is a choice."""

from seqcourse.models.classifier import TextClassifier
from seqcourse.models.forecaster import Forecaster
from seqcourse.models.language_model import LanguageModel, StreamLoss
from seqcourse.models.next_frame import NextFramePredictor
from seqcourse.models.tagger import SequenceTagger
from seqcourse.models.translation import RecurrentTranslator, TransformerTranslator, Translator

__all__ = [
    "Forecaster",
    "LanguageModel",
    "NextFramePredictor",
    "RecurrentTranslator",
    "SequenceTagger",
    "StreamLoss",
    "TextClassifier",
    "TransformerTranslator",
    "Translator",
]
