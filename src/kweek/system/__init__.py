"""Tools and the chat loop around a language model."""
