"""Measurements of the service on one machine. README.md says how they are made and how to read them."""
