"""Search: from every configuration that fits to the cheapest one that meets the targets."""
