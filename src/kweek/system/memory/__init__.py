"""Memory: documents in one SQLite file, found again by words or vectors, quoted to the letter, deleted with proof."""
