"""Who may do what, at what cost, provably."""
