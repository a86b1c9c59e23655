"""Training: one functional step, the loop around it, and what divergence looks like."""
