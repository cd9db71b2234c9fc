"""What runs: jobs, fleets and the Ray actors that train."""
