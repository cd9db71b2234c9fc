"""Foundry: a self-hosted model foundry on one Ray cluster."""

__version__ = "0.2.0"
