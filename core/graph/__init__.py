"""Graphs: read and write ComfyUI's formats, check them, run them without ComfyUI."""
