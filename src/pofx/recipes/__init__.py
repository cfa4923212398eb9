"""Whole runs as functions: the docstring gives command, time and figure to expect."""
