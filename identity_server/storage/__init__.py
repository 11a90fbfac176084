"""The database. Rows become domain objects here and nowhere else."""
