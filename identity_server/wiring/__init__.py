"""From configuration to parts, for `app.py` and the command line: they alone read the configuration.

settings.py     what each part takes
world.py        what reaches outside             reporting.py    where faults and traces go
storage.py      the database with its keys       index.py        the read index, and who makes its file
services.py     the use cases                    desks.py        what operators' commands work with
measuring.py    what the parts know of themselves, as metrics
problems.py     what the operator can put right
preloading.py   what every worker needs, whatever its configuration says
"""
