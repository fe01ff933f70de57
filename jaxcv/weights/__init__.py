"""Readers of original checkpoints, and the key maps onto our parameters."""
