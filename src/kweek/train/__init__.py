"""One training loop for every objective: optimisers, schedules, resumable state."""
