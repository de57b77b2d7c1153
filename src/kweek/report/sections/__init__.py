"""The sections of a report, one author each; `render` decides their order."""
