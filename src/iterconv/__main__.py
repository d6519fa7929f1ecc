"""``python -m iterconv`` is the command ``iterconv``."""

import sys

from iterconv.cli import main

sys.exit(main())
