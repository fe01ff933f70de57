"""Figures of merit, as the field computes them."""
