"""Desired and observed state of engines, and the route from a model name to one."""
