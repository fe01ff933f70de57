"""The training step and everything around it."""
