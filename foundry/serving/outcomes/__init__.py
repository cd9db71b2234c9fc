"""What deployments really do, beside what was predicted of them."""
