"""Fine-tunes a converted MLA model, or the MHA model it was made of: `python -m offline.finetune`, see its --help."""

import sys

from offline.finetune import main

sys.exit(main())
