"""Sources to clean documents, problems with verifiable answers, and packed batches of token ids."""
