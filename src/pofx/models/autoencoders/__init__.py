"""Reduce to the essence and rebuild."""
