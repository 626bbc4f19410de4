"""The embedded default: a rendered world, a tiny vision-language model of the real Qwen2.5-VL architecture, and its weights."""
