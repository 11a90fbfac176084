"""Looks a set-up over as clients, homeservers and the server itself meet it, and says what is wrong, why, and what to do.

    examination.py  everything that is looked at, in the order in which it is told
    settings.py  data.py  public_url.py  homeserver.py  messages.py   one thing each
    patient.py      what is looked over, and with what
    findings.py     what is said about one thing     advice.py       what to do when something can't be reached

The rule: it changes nothing. What isn't there yet is said to be missing, not made.
"""
