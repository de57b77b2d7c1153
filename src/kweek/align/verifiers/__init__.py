"""Judges of answers, one small file each: pure, deterministic, bounded in time, and never raising outward."""
