"""Prompt compression: fewer tokens of context, chosen by the question, with what that cost measured."""
