"""`python -m meshdp` is `meshdp`."""

import sys

from meshdp.cli import main

sys.exit(main())
