"""ViSurf: supervised and reinforcement fine-tuning of vision-language models in one stage."""
