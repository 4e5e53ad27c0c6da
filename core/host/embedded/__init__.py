"""The host without ComfyUI, one file a topic."""
