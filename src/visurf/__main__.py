"""``python -m visurf`` is the command line."""

from visurf.cli import main

raise SystemExit(main())
