"""The only code that leaves the process: homeservers, mail, the clock and randomness. Implements the ports.

system.py               clock and randomness
federation.py           asks homeservers               origin_keys.py     the keys that they sign with
discovery.py            where they answer              names.py           DNS
https.py                one request                    addresses.py       where it may go
single_flight.py        a cache in which nothing is fetched twice at once
mail.py                 delivers mail                  smtp.py            to the relay
counted_mail.py         counts what becomes of it
sms/                    text messages
sentry.py               reports faults                 traces.py          and how long things took
visiting.py             the web as an app sees it, for the doctor
"""
