"""Measurements of what is served, and of what it costs to build and start it."""
