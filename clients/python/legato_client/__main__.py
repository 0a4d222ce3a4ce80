"""`python -m legato_client`."""

import sys

from legato_client.cli import main

sys.exit(main())
