"""Parts with parameters that architectures share."""
