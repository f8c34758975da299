"""`python -m vidgn VERB` is `vidgn VERB`."""

import sys

from vidgn.cli.main import main

sys.exit(main())
