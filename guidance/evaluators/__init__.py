"""Evaluators: judges of a prediction of the clean image, for rules that choose by them."""

from guidance.evaluators.agreement import Agreement
from guidance.evaluators.decoded import Decoded
from guidance.evaluators.decoded_classifier import DecodedClassifier
from guidance.evaluators.files import (
    EvaluatorConfig,
    TrainedEvaluator,
    load_evaluator,
    save_evaluator,
)
from guidance.evaluators.network import AlignmentNet, EvaluatorNet, NetworkSettings, build
from guidance.evaluators.origin import denoiser_of, space_of, text_encoder_of
from guidance.evaluators.protocol import Classifier, Evaluator, Prompts
from guidance.evaluators.saturation import Clipping, Saturation
from guidance.evaluators.trained import (
    Alignment,
    Discriminator,
    LatentClassifier,
    NoisyClassifier,
    Reward,
)

__all__ = [
    "Agreement",
    "Alignment",
    "AlignmentNet",
    "Classifier",
    "Clipping",
    "Decoded",
    "DecodedClassifier",
    "Discriminator",
    "Evaluator",
    "EvaluatorConfig",
    "EvaluatorNet",
    "LatentClassifier",
    "NetworkSettings",
    "NoisyClassifier",
    "Prompts",
    "Reward",
    "Saturation",
    "TrainedEvaluator",
    "build",
    "denoiser_of",
    "load_evaluator",
    "save_evaluator",
    "space_of",
    "text_encoder_of",
]
