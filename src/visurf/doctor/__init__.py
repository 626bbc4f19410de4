"""Checks before a run: data, labels, rewards, rollouts, memory and time; what each looks at is in docs/checking.md."""
