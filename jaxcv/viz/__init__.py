"""Predictions and ground truth as pictures."""
