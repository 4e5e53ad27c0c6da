"""Scores of a picture: its attributes, its looks, and its similarity to a text."""
