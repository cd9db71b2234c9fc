"""From a Hugging Face `config.json` to a `ModelSpec`, by arithmetic alone."""

from foundry.engines.budsim.architecture import flops_per_token
from foundry.engines.budsim.model_config.checkpoint import model_spec_of
from foundry.engines.budsim.model_config.spec import model_spec

__all__ = ["flops_per_token", "model_spec", "model_spec_of"]
