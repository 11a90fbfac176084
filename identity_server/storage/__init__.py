"""The database. Rows become domain objects here and nowhere else."""

from identity_server.storage.without_orm import import_engine

# Before any module of this folder imports the package as a whole.
import_engine()
