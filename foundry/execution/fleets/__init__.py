"""What a DiLoCo run has committed: its rounds, its membership, its checkpoints."""
