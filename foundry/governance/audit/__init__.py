"""Who changed what: append-only, written in the transaction of the change."""
