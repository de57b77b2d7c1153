"""Fixtures that several modules share."""

from small_engine import engine, network

__all__ = ["engine", "network"]
