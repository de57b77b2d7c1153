"""Environments: fixed prompts, stories, games, tools, and the tasks of reasoning-gym."""
