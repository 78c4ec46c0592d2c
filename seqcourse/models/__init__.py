"""Models by job, one file each; the recurrent layer inside is a choice, and so is a Transformer."""

from seqcourse.models.classifier import TextClassifier
from seqcourse.models.forecaster import Forecaster, TransformerForecaster
from seqcourse.models.language_model import LanguageModel, StreamLoss
from seqcourse.models.next_frame import NextFramePredictor
from seqcourse.models.tagger import SequenceTagger
from seqcourse.models.transformer_models import TransformerClassifier, TransformerLanguageModel
from seqcourse.models.translation import RecurrentTranslator, TransformerTranslator, Translator

__all__ = [
    "Forecaster",
    "LanguageModel",
    "NextFramePredictor",
    "RecurrentTranslator",
    "SequenceTagger",
    "StreamLoss",
    "TextClassifier",
    "TransformerClassifier",
    "TransformerForecaster",
    "TransformerLanguageModel",
    "TransformerTranslator",
    "Translator",
]
