"""A Matrix identity server.

The folders, and which way imports point (nothing imports to its right):

    domain <- storage, rendering, config <- index, outbound, sydent <- services <- api, workers <- wiring <- app <- server, commands

    domain/           rules without I/O: identifiers, sessions, associations, invites, signing, limits
    storage/          SQLAlchemy Core; rows become domain objects here and nowhere else
    index/            the index that answers hashed lookups
    rendering/        everything people read: mails, pages, policies, translations
    sydent/           a database of Sydent's becomes rows here, and back
    outbound/         the only code that leaves the process: homeservers, mail, text messages, clock, randomness
    services/         use cases; one public method is one use case is one transaction
    workers/          what happens without a request: deliveries and upkeep
    api/              HTTP: the route table, one file per section of the Identity Service API
    metrics/          what a process counts
    templates/        mails, pages and translations, as files
    config/           sydent.conf as typed sections; only wiring/, app.py, server/ and the command line read it
    wiring/           from configuration to parts
    app.py            the composition root
    server/           processes: a parent and its workers, which listen and drain
    commands/         the command line, one file per command; __main__.py names them
    doctor/           what `identity-server doctor` looks at
    demo/             the story that `identity-server demo` tells

    key_files.py      the root key and the signing key, which live outside the database
    key_watch.py      no process works on without a root key that another one may be using
    observability.py  the log, and what is blotted out of it
    shipped.py        where the files are that travel with the package

Each folder's own `__init__.py` names every file in it. docs/architecture.md follows a request through them.
"""

__version__ = "0.1.0"
