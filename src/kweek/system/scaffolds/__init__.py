"""Scaffolds: ordinary functions `(context, task) -> Answer` that join the calls of models and tools into an answer.

Options are keyword arguments with defaults: `partial(self_consistency, n=16)` is a scaffold too.
"""
