"""Objectives beyond next-token: supervised chats, verifiable rewards, and the guards around them."""
