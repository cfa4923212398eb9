"""Mess it up, then undo."""
