"""`foundry budsim`: what to set for a model, these GPUs, these targets and this budget."""
