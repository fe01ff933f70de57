"""Data sets, their transforms and the input pipeline."""
