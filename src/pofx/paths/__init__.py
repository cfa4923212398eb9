"""Noise schedules and interpolants shared by diffusion and flow matching."""
