"""Models, their versions, lineage, files and aliases."""
