"""`python -m fastconv`, the same as the command `fastconv`."""

import sys

from .cli import main

sys.exit(main())
