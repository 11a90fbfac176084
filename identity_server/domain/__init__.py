"""What an identity server is about, free of I/O.

Nothing here reads a clock, a file, a socket or a database; time and randomness come in as arguments.
"""
