"""Networks in exportable layouts, Hugging Face and GGUF checkpoints, quantised layers."""
