"""Scores: each says what it is."""

from pofx.evaluate.codecs import codec_scores
from pofx.evaluate.evaluation import evaluate
from pofx.evaluate.score import Score

__all__ = ["Score", "codec_scores", "evaluate"]
