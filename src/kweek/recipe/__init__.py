"""Recipes: typed schema, stages, run folder, cache, resume, plan."""
