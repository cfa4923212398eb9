"""Distances between distributions, as pure functions."""
