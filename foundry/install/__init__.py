"""The installer: `python3 foundry/install/bootstrap.py`; needs nothing but Python."""
