"""The command line, one file per command; what they share is in context.py."""

from identity_server.commands.without_rich import import_structlog

# Before any module of this folder imports it.
import_structlog()
