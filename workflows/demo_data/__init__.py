"""The demo's dataset: help-desk requests in free text, answered with one strict JSON command."""
