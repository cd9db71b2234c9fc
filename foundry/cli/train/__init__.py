"""`foundry train`."""
