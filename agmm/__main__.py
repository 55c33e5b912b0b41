"""``python -m agmm`` is the command ``agmm``."""

from agmm.cli import main

raise SystemExit(main())
