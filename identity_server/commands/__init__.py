"""The command line, one file per command.

serve.py  health.py  doctor.py  demo.py
check_config.py  retention.py
database.py                                      `db`
keys.py  pepper.py  jobs.py  invites.py  audit.py
account.py  account_export.py  account_erase.py  association.py  homeserver.py
import_sydent.py  export_sydent.py

context.py      what they share: configuration, log, errors in words
subjects.py     whom a command is about          erasing.py      how the commands that erase do it
progress_bar.py
without_rich.py structlog without what isn't used
"""

from identity_server.commands.without_rich import import_structlog

# Before any module of this folder imports it.
import_structlog()
