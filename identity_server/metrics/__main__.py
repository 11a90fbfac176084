"""`python -m identity_server.metrics`: writes docs/metrics.md to standard output."""

import sys

from identity_server.metrics.documents import reference

sys.stdout.write(reference())
