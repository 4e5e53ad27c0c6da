"""Bridges of Coop-Diffusion (Lu et al. 2023, PanGu-Draw): one picture drawn by models of different latent spaces or resolutions."""
