"""Rewards, reward controls and group advantages for training loops of other libraries: `trl` and `verl`. Imports neither."""
