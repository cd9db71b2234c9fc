"""Training data: validated, deduplicated, split, immutable by digest."""
