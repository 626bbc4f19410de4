"""Tasks, one file each: prompt, label text, parser, rewards, metrics."""
