"""Writes `sydent.conf.example` and `docs/configuration.md` from the declarations of the keys.

`python -m identity_server.config example > sydent.conf.example` and
`python -m identity_server.config reference > docs/configuration.md` bring them up to date. The one rule: pure
functions, so that a test can prove both files current.
"""

from __future__ import annotations

import textwrap

from identity_server.config.differences import Difference, differences
from identity_server.config.keys import Key, Section
from identity_server.config.sections import all_sections

_WIDTH = 100

_EXAMPLE_INTRO = """\
The configuration of the identity server. The format and the keys are those of Sydent, so that a sydent.conf
can stay as it is; keys that Sydent doesn't have are marked (new).

A line `# like this` explains. A line `#like = this` is a key with its default: take away the `#` to change it.
To begin with, set `server.name`, `client_http_base`, `email.from` and `email.smtphost`.

A value is taken from the first of these places that has it:
  1. the variable IDENTITY_SERVER__SECTION__KEY, in capitals, dots as `_`
     (clientapi.http.port in [http] is IDENTITY_SERVER__HTTP__CLIENTAPI_HTTP_PORT);
     for a secret also ..._FILE, naming a file that holds it
  2. its section in this file
  3. the section [DEFAULT] of this file
  4. SYDENT_SERVER_NAME, SYDENT_PID_FILE, SYDENT_DB_PATH
  5. the default

A percent sign is written %%. Values may go on in the next lines if those are indented. Comments stand on lines
of their own. Relative paths start at the working directory. The server never writes to this file.
`identity-server check-config` shows everything that is wrong with it, at once.
"""

_REFERENCE_INTRO = """\
# Configuration

<!-- Written by `python -m identity_server.config reference > docs/configuration.md`; a test compares the two. -->

The server reads Sydent's `sydent.conf`: an INI file in UTF-8. `identity-server serve -c FILE` names it; without
`-c` it is `$SYDENT_CONF`, else `./sydent.conf`. Without any, the defaults hold and all data lies in `./data`
(the database in `data/db`, the keys in `data/keys`). [sydent.conf.example](../sydent.conf.example) holds every
key with its default. If `$SYDENT_CONF` names a file that doesn't exist, as in a new container, the server starts with
the defaults, a warning, and its keys in `keys` beside that name.

## Where a value comes from

The first of these that has it:

1. the environment variable `IDENTITY_SERVER__SECTION__KEY`, in capitals, with dots as `_`:
   `clientapi.http.port` in `[http]` is `IDENTITY_SERVER__HTTP__CLIENTAPI_HTTP_PORT`. A secret may also lie in a
   file named by the same variable with `_FILE` at its end; white space around it is dropped.
2. the key's own section in the file,
3. the section `[DEFAULT]` of the file, where old installations of Sydent keep everything,
4. `SYDENT_SERVER_NAME`, `SYDENT_PID_FILE` and `SYDENT_DB_PATH`, which are read at every start,
5. the default.

## How values are written

- `key = value` or `key: value`, names of keys in any case. Indented lines go on with a value. Comments (`#` or
  `;`) stand on lines of their own.
- `%` refers to other keys of the section or of `[DEFAULT]` (`%(server.name)s`); **a percent sign in a value, such
  as a password, is written `%%`**. Environment variables need no doubling.
- A key may be written with its section's name in front: `crypto.key_dir` in `[crypto]` is `key_dir`.
- In `[general]`, booleans are `true` or `false`; elsewhere also `yes`, `no`, `on`, `off`, `1`, `0`.
- Relative paths start at the working directory of the server, as Sydent's do. Only `key_dir`, when it isn't set,
  lies beside the file.

## What is checked

The server doesn't start with a value that it can't use; it reports everything that is wrong at once, with file and
line, and never shows a secret. Keys, sections and `IDENTITY_SERVER__` variables that it doesn't know are warnings
with the nearest known name (errors for `identity-server check-config --strict`): without effect, but mostly a slip.
A key or section that stands twice is an error. The server never writes to the file.
"""

_DIFFERENCES_INTRO = """\
## What Sydent does otherwise

`identity-server check-config` shows the rows that concern your file.

### When the key is left out
"""


def example() -> str:
    """The text of `sydent.conf.example`: every key with its default, commented out."""
    parts = [_commented(_EXAMPLE_INTRO)]
    for section in all_sections():
        entries = "\n".join(_example_entry(section, key) for key in section.keys.values())
        parts.append(f"\n[{section.name}]\n{_wrapped(section.doc)}\n{entries}")
    return "".join(parts)


def _commented(text: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False) + "\n"


def _example_entry(section: Section, key: Key) -> str:
    marks = " ".join(f"({mark})" for mark in _marks(key))
    secret = f" Also from the file named by ${section.variable(key)}_FILE." if key.secret else ""
    text = " ".join(part for part in (marks, _plain(key.doc)) if part)
    return f"{_wrapped(text + secret)}#{key.written_name} = {key.written_default}".rstrip() + "\n"


def _plain(markdown: str) -> str:
    return markdown.replace("`", "")


def _marks(key: Key) -> list[str]:
    return ["new"] * key.new


def reference() -> str:
    """The text of `docs/configuration.md`."""
    sections = "".join(_reference_section(section) for section in all_sections())
    rows = differences()
    defaults = "".join(_default_row(row) for row in rows if row.kind == "default")
    meanings = "".join(f"| `{row.key}` | {_cell(row.breaks)} |\n" for row in rows if row.kind == "meaning")
    return (
        f"{_REFERENCE_INTRO}{sections}\n{_DIFFERENCES_INTRO}\n"
        f"| Key | Here | Sydent | Who notices |\n|---|---|---|---|\n{defaults}\n"
        f"### When it is set\n\n| Key | What differs |\n|---|---|\n{meanings}"
    )


def _reference_section(section: Section) -> str:
    rows = "".join(_reference_row(key) for key in section.keys.values())
    return f"\n## [{section.name}]\n\n{section.doc}\n\n| Key | Default | Meaning |\n|---|---|---|\n{rows}"


def _reference_row(key: Key) -> str:
    marks = _marks(key) + ["secret"] * key.secret
    note = f"*{', '.join(marks)}.* " if marks else ""
    name = f"{key.name.removesuffix('*')}{'N' if key.is_family else ''}"
    default = key.written_default if not key.is_family or key.has_default_member else ""
    return f"| `{name}` | {_code(default)} | {note}{_cell(key.doc)} Expects {_cell(key.reader.expects)}. |\n"


def _default_row(row: Difference) -> str:
    ours = row.ours.replace("%", "%%")
    return f"| `{row.key}` | {_code(ours)} | {_cell(row.sydent)} | {_cell(row.breaks)} |\n"


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else "(empty)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
