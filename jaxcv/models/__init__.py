"""Architectures: one file each, whose last function build(config) returns its Recipe."""
