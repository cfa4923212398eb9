"""Likelihood heads and priors that take a generator."""
