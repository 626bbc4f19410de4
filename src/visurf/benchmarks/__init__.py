"""Data sets in their original layout, one file each."""
