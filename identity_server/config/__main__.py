"""`python -m identity_server.config example|reference`: writes the generated documentation to standard output."""

from __future__ import annotations

import sys

from identity_server.config import documents


def main(arguments: list[str]) -> int:
    """Write one document; the exit status."""
    writers = {"example": documents.example, "reference": documents.reference}
    if len(arguments) != 1 or arguments[0] not in writers:
        sys.stderr.write("usage: python -m identity_server.config example|reference\n")
        return 2
    sys.stdout.write(writers[arguments[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
