"""Blocks of networks. `restore` is built of `ss2d`; those of ViT and Swin are public, and no room uses them so far."""
