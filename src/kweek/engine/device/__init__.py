"""Generation where every call from the host costs: static batches, captured whole, sampling included."""
