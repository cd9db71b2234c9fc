"""The control plane: one FastAPI application over every slice."""
