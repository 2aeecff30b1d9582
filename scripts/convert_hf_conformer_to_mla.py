"""Converts an MHA checkpoint to MLA: `python -m offline.convert`, see its --help."""

import sys

from offline.convert import main

sys.exit(main())
