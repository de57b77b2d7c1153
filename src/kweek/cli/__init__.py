"""The command line: one file per verb, each a thin face of one package."""
