"""How the shipped predictor came to be: data, splits, scores. Nothing here serves a question."""

from foundry.engines.budsim.fitting.fit import fit

__all__ = ["fit"]
