"""Studies: grids of runs with tuning, matched budgets, held-out tests and paired statistics; docs/studies.md."""
