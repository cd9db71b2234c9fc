"""From a Hugging Face `config.json` to a `ModelSpec`, by arithmetic alone."""

from foundry.budsim.architecture import flops_per_token
from foundry.budsim.model_config.checkpoint import model_spec_of
from foundry.budsim.model_config.spec import model_spec

__all__ = ["flops_per_token", "model_spec", "model_spec_of"]
