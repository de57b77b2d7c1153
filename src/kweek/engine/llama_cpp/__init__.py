"""llama.cpp as a backend: any GGUF file, also of layouts that Kweek itself does not load."""
