"""One file per model, one folder per family; each file reads top to bottom as the method's story."""
