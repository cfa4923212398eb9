"""``python -m pofx``."""

import sys

from pofx.cli import main

sys.exit(main())
