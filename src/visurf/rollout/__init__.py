"""Sampling completions: in process (`local`); servers follow the same protocol."""
