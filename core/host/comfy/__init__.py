"""The host inside ComfyUI, one file a topic."""
