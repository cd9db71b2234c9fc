"""The guard of a stack: what it does each turn, when it acts, and how it begins and ends."""
