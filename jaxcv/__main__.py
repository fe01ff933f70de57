"""`python -m jaxcv`: predict, evaluate, convert and check-data."""

import sys

from jaxcv.cli import main

sys.exit(main())
