"""Verifiable rewards, one file per family of definitions."""
