"""Local control: a trainable copy of a U-Net's encoder that follows edges, segments and sketches (ELR-Diffusion, section 2.4)."""
