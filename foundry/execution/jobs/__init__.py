"""Long-running work: states, leases, progress, metrics and logs."""
