"""`python -m fastconv` runs the command `fastconv`."""

import sys

from .cli import main

sys.exit(main())
