"""Figures of sweeps, and studies that compare published figures with sweeps."""
