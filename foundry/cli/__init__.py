"""The `foundry` command: a client of the SDK, plus the commands that run a local stack."""
