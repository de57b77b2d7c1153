"""vLLM as a backend, for checkpoint folders on GPUs (the extra `vllm`)."""
