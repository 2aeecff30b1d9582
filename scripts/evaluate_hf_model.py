"""Word error rate, speed and memory of an MHA or MLA model: `python -m offline.evaluate`, see its --help."""

import sys

from offline.evaluate import main

sys.exit(main())
