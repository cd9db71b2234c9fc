"""`foundry jobs`."""
