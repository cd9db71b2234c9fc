"""Who is asking and what they may do: tenants, projects, API keys, permissions."""
