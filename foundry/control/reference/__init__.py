"""The reference of the API: its document, and a page drawn from it."""
