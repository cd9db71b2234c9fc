"""Serving configurations that budsim recommends, and what it predicts of them."""
