"""Load a pipeline by name, generate and compare clips, and the command line."""
