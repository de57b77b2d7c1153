"""Environments: fixed prompts, games, tools, and the tasks of reasoning-gym."""
