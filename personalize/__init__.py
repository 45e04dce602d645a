"""Personalization of diffusers pipelines."""
