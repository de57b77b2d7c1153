"""The native core: its C source, how it is built and found, and how weights are packed for it."""
