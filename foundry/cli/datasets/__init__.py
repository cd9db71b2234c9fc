"""`foundry datasets`."""
