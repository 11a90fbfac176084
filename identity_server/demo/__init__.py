"""`identity-server demo`: the whole story, told in the terminal against the running server.

    run.py                from the first line to the exit code
    stage.py              starts the real server, a sample homeserver and a mail catcher, all on this machine
    story.py              the steps, in their order; begin here
    client.py             how the apps of the sample users, and a browser, send requests
    narrator.py           what the terminal shows
    sample_homeserver.py  mail_catcher.py

The one rule: nothing is made up. What is shown was sent over real HTTP, TLS and SMTP, and checked.
"""
