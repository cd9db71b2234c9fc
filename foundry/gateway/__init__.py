"""The data plane's HTTP application, `/v1`."""
