"""Transport: maps that carry one law onto another at the least cost."""
