"""What an identity server is about, free of I/O.

    identifiers.py          Matrix IDs, server names, 3PIDs and their grammars
    phone.py                phone numbers              mailboxes.py       whom mail to an address reaches
    networks.py             client networks
    errors.py               everything that can go wrong
    ports.py                what is needed from outside
    durations.py            random_values.py

    account.py              who has an access token    terms.py           what they have to accept
    validation.py           sessions that prove an address
    credentials.py          hashes short codes         text_messages.py   how they are texted
    association.py          a binding                  invite.py          what waits for one
    signing.py              our signing key            signatures.py      signatures of others
    x_matrix.py             requests that homeservers have signed
    hashing.py              how addresses are hashed   written_hashes.py  many of them, as they were written
    visit.py                a look at the privacy page
    holdings.py             what is held about an address
    account_holdings.py     what is held about a Matrix ID

    rate_limits.py          how often                  budgets.py         how many addresses
    homeserver_policy.py    whose users are served     server_domains.py  whom a homeserver's name belongs to
    retention.py            what is kept, why and for how long
    audit.py                entries of the journal     audit_chain.py     how they are linked

Nothing here reads a clock, a file, a socket or a database; time and randomness come in as arguments.
"""
