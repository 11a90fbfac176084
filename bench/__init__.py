"""The benchmark: this server and the real Sydent on the same data, driven in turn. `README.md` says how to read it.

The map:

    world.py       the data as a function of a number: every address, Matrix ID, account and token, and who is whose
    databases.py   that data in Sydent's database and in ours, made once and kept in bench/.data
    servers.py     ours, Sydent, and the bare handler (bare.py): configured, started, measured, ended
    requests.py    ready-made requests, and what must be answered to each
    wrk.py         the load generator (wrk.lua hands it the requests)
    steady.py      requests at a steady pace, for how long people wait
    client.py      the frugal HTTP client of these
    checking.py    asks slowly while others ask fast, and compares every answer with the world
    sinks.py       the mail relay and the homeservers that the servers talk to
    stories.py     people who validate, bind and invite
    cells.py       what is measured: one function per kind
    plan.py        which cells, on how many associations, in which order
    results.py     what was measured, round by round
    report.py      medians, ratios, the tables; plot.py draws them
    targets.py     what the server has set itself
    lag.py         simulates nodes that follow the feed of changes
    simulate.py    arithmetic and a simulation for a hundred million associations and more

The one rule: a wrong answer voids the run. Speed is only counted where truth was told.
"""
