"""Bundles: the file format of trained parts, and the one door to them."""
