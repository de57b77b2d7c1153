"""The built-in kinds of stage, one module each."""
