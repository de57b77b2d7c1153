"""Bits per byte, task accuracy with intervals, voting and forced-strategy controls."""
