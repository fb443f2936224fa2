"""Localization scores of a model on a data set, under a named protocol."""

from gapcam.evaluate.preparing import BadRowsError
from gapcam.evaluate.protocols import PROTOCOLS
from gapcam.evaluate.run import Evaluation, Progress, evaluate

__all__ = ["PROTOCOLS", "BadRowsError", "Evaluation", "Progress", "evaluate"]
