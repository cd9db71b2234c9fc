"""`foundry up`, `down`, `status`, `logs` and `env`."""
