"""Text to token ids and back: byte-level BPE, chat templates, loss masks."""
