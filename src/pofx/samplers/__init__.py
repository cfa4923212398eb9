"""Samplers: functions with one head, (field, x, grid, *, generator)."""
