"""Graphs of ComfyUI: reading, writing, checking, and running them without ComfyUI."""
