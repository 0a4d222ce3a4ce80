"""Editing of latents."""
