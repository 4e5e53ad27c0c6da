"""Scores of a picture."""
