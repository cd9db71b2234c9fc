"""Separate machines for tests, on one machine: Ray nodes in network namespaces, on slow links."""
