"""Graphs behind an HTTP API: the rooms of `python -m rapiddraw serve`. Needs the extra `serve`; nothing else of the pack imports this."""
