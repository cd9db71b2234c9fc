"""Drivers of what Foundry stands on: PostgreSQL, object store, HTTP, clock, embedded servers."""
