"""Scores: each says what it is."""
