"""The configuration: `sydent.conf` and the environment, as typed sections.

Only `wiring/`, `app.py` and the command line read this package; every other part receives values.

    sections.py     what can be configured: one class per section, one declaration per key
    loading.py      load(): file, environment and defaults to a checked Config
    checks.py       what can be said only of several keys together
    values.py       from text to value            ini.py    from file to text, with lines
    keys.py         what a key is                 problems.py   what is wrong, and where
    database_url.py reads one, and only then loads what it takes
    differences.py  where Sydent does otherwise   documents.py  the example file and the reference page

The one rule: everything wrong is reported at once, with its place, and without showing a secret.
"""

from identity_server.config.differences import Difference, differences
from identity_server.config.keys import Key, Section
from identity_server.config.loading import load
from identity_server.config.problems import ConfigError, Origin, Problem
from identity_server.config.sections import (
    Config,
    Crypto,
    Db,
    Email,
    General,
    Http,
    Lookup,
    Sms,
    all_sections,
)
from identity_server.config.values import (
    Network,
    Originator,
    OriginatorKind,
    SmsRule,
    TlsMode,
    decode_root_key,
)

__all__ = [
    "Config",
    "ConfigError",
    "Crypto",
    "Db",
    "Difference",
    "Email",
    "General",
    "Http",
    "Key",
    "Lookup",
    "Network",
    "Origin",
    "Originator",
    "OriginatorKind",
    "Problem",
    "Section",
    "Sms",
    "SmsRule",
    "TlsMode",
    "all_sections",
    "decode_root_key",
    "differences",
    "load",
]
