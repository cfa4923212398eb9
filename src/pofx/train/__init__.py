"""The loop over turns and all it needs."""
