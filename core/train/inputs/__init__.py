"""Inputs of recipes: latents of a folder, captions and their tokens, pairs of prompts."""
