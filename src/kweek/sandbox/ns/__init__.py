"""What runs between the caller and the program: imports nothing but the standard library, to start in milliseconds.

Not even all of that: `typing`, `json`, `enum` and what imports them cost more than the whole sandbox.
"""
