"""Metrics of a run with their errors, and one HTML page that shows runs side by side."""
