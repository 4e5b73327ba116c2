"""Run the replay tool."""

import sys

from .cli import main

sys.exit(main())
