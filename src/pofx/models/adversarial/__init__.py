"""Fake it till you make it."""
