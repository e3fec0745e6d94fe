"""What the proxy costs, beside others: see README.md."""
