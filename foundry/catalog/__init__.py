"""What there is: models and data, every version with its lineage."""
