"""Behaviour: written rules, a small harmless world in which they can be kept or broken, and attacks on them."""
