"""Run the console command: ``python -m flowcache`` is ``flowcache``."""

import sys

from .cli import main

sys.exit(main())
