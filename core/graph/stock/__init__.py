"""Stock nodes of ComfyUI that the embedded host brings, under their own ids."""
