"""The one renderer of records into one self-contained HTML file."""
