"""The only code that leaves the process: homeservers, mail, the clock and randomness. Implements the ports."""
