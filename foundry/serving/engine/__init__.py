"""The engine side of serving: replica, adapter residency, engines, Serve shells."""
