"""From configuration to parts, for `app.py` and the command line: they alone read the configuration.

settings.py translates, world.py makes what reaches outside, storage.py opens the database, services.py puts the
services together, preloading.py is what needs no configuration.
"""
