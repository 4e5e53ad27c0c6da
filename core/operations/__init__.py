"""What takes a MODEL, CLIP or VAE and asks the host for its parts."""
