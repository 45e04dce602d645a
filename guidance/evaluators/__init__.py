"""Evaluators: judges of a prediction of the clean image, for rules that choose by them."""

from guidance.evaluators.agreement import Agreement
from guidance.evaluators.decoded import Decoded
from guidance.evaluators.decoded_classifier import DecodedClassifier
from guidance.evaluators.protocol import Classifier, Evaluator, Prompts
from guidance.evaluators.saturation import Clipping, Saturation

__all__ = [
    "Agreement",
    "Classifier",
    "Clipping",
    "Decoded",
    "DecodedClassifier",
    "Evaluator",
    "Prompts",
    "Saturation",
]
