"""What happens: metrics and how well predictions hold."""
