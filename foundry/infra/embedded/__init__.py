"""Servers that `foundry up` runs on this machine when the settings name no external one."""
