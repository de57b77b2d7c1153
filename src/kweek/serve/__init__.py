"""An OpenAI-compatible server over one engine: HTTP in and out, one thread that computes."""
