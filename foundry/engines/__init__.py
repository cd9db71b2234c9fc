"""Pure numerics: no Ray, no HTTP, no SQL."""
