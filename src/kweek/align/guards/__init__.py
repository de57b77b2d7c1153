"""Guards: what watches a run of training, warns, and ends it before more is lost."""
