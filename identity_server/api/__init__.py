"""HTTP. One file per section of the Identity Service API, and what they share.

The specification, section by section:

    status.py           API version and status check; and the two questions of operators' tools
    account.py          Authentication
    terms.py            Terms of service, and their pages
    pubkey.py           Key management
    lookup.py           Association lookup
    validate.py         Email associations, and their pages
    validate_msisdn.py  Phone number associations
    validate_parts.py   what these two have in common
    threepid.py         Associations, general: getValidated3pid, bind, unbind
    invitations.py      Invitation storage and signing
    v1.py               what v1 has and v2 hasn't

What isn't in the specification:

    privacy.py          the page where people see what is held about their address
    visibility.py       who may know of one's bindings
    erasure.py          a homeserver has everything about one of its users removed
    internal.py         binding and unbinding by the operator's own systems
    document.py         this API for programs, as it was written by openapi.py

How a request passes, from the outside to its handler and back:

    protocol.py         connections: their limits, and what is said to whoever can't be understood
    answering.py        around the application: the request's id, its errors, its line in the log
    request_ids.py      names requests                   request_log.py   notes what became of them
    clients.py          who is at the other end          proxies.py       what stands between, and is believed
    routes.py           the table: method, path, handler, access
    route.py            what a row of it says            guard.py         makes that true around the handler
    requests.py         reads bodies and queries         wire.py          what these, and answers, are made of
    app_keys.py         where handlers find what they call
    errors.py           the table of errors: status and errcode
    headers.py          what every answer has
    json_answer.py      the answer in JSON               pages.py         the answer as a page

The rule: handlers read, call one service method, and shape the answer.
"""
