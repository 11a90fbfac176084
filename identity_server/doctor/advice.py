"""What to do when something can't be reached, by the words of outbound/https.py for why."""

from __future__ import annotations

_ADVICE = (
    (
        "certificate has expired",
        "renew the certificate, and have whatever serves it read it again (a reload is often forgotten)",
    ),
    ("hostname mismatch", "serve a certificate that is for this very name, not one of another site on the machine"),
    ("ip address mismatch", "serve a certificate that is for this address, or use a name"),
    (
        "self-signed certificate",
        "get a certificate of an authority that apps and homeservers know, such as Let's Encrypt",
    ),
    (
        "unable to get local issuer",
        (
            "serve the whole chain (fullchain.pem, not cert.pem); if it is whole, this machine doesn't know its authority: a"
            " homeserver's can be named in `federation.ca_file`"
        ),
    ),
    ("no tls that both sides", "an HTTPS port was expected there: look at the port, and at the proxy's TLS settings"),
    ("dns lookup", "add an A or AAAA record for the name, or correct the name"),
    ("connection refused", "nothing listens there: start it, or look at the address and port that it listens on"),
    ("no connection: network is unreachable", "this machine has no route there: often IPv6 without an IPv6 network"),
    ("no answer within", "a firewall drops packets on the way, or the machine is down"),
    ("timed out", "a firewall drops packets on the way, or the machine is down"),
    ("addresses of this kind", "private networks are closed to strangers; if it is yours, add it to `ip.whitelist`"),
    ("redirect", "let the path be answered where it is asked for"),
)


def advice_for(reason: str) -> str:
    """What to do about a reason; empty if there is nothing better to say than the reason itself."""
    lowered = reason.lower()
    return next((advice for words, advice in _ADVICE if words in lowered), "")
