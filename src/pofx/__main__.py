"""``python -m pofx``."""

import os
import sys

from pofx.cli import main

status = main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    from pofx.train.launch import leave

    leave(status)
sys.exit(status)
