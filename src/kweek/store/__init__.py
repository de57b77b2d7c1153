"""Files that survive a crash: the one writer, artifacts with a manifest, append-only records, locks."""
