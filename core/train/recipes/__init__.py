"""Training recipes, one file a recipe."""
