"""What a configuration key is: its name, how it is read, its default, and what to say about it.

The one rule: a key is declared once, as a field of its section's class. The reader, the example file, the
reference page, the environment variables and the list of differences from Sydent all come from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from identity_server.config.values import Reader

_METADATA = "identity_server.config.key"
_PREFIX = "IDENTITY_SERVER__"
FILE_SUFFIX = "_FILE"
"""At the end of a secret's variable that names a file."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of one section.

    Attributes:
        name: as written in the file, e.g. `server.name`; a family of keys ends in `.*`.
        reader: reads the value (of a family: of each member).
        default: as one would write it in the file, but with single percent signs.
        doc: one paragraph for operators, in Markdown.
        secret: never shown; may also come from a file named by a `..._FILE` variable.
        new: Sydent has no such key.
        sydent_default: what Sydent does without the key, where that is something else.
        breaks: who notices that the default is another one.
        reads_differently: how the same value means something else than to Sydent, and to whom it matters.
        has_variables: the value is a pattern whose `%(name)s` are filled in later: they refer to no other key.
        member: of a family, the example that the documentation shows; the default is this member's.
        member_names: of a family, reads (and so checks) what follows the dot.
        has_default_member: of a family, whether the example is also there when nothing is configured.
    """

    name: str
    reader: Reader[Any]
    default: str
    doc: str
    secret: bool = False
    new: bool = False
    sydent_default: str | None = None
    breaks: str = ""
    reads_differently: str = ""
    has_variables: bool = False
    member: str | None = None
    member_names: Reader[str] | None = None
    has_default_member: bool = False

    @property
    def is_family(self) -> bool:
        """Whether this stands for any number of keys, `name.MEMBER`."""
        return self.name.endswith(".*")

    @property
    def written_name(self) -> str:
        """The name as it can stand in a file; of a family, the example's."""
        return self.name if self.member is None else self.member_name(self.member)

    @property
    def written_default(self) -> str:
        """The default as it can stand in a file."""
        return self.default if self.has_variables else self.default.replace("%", "%%")

    def member_name(self, member: str) -> str:
        """The name of one member of a family."""
        return f"{self.name.removesuffix('*')}{member}"

    def default_value(self) -> Any:
        """What stands in the section's object when nothing is configured."""
        if self.member is None:
            return self.reader.read(self.default)
        return {self.member: self.reader.read(self.default)} if self.has_default_member else {}


def key(name: str, reader: Reader[Any], default: str = "", *, doc: str, **more: Any) -> Any:
    """Declare a dataclass field as a configuration key; see `Key` for the arguments."""
    declared = Key(name=name, reader=reader, default=default, doc=" ".join(doc.split()), **more)
    return field(default_factory=declared.default_value, metadata={_METADATA: declared}, repr=not declared.secret)


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the file.

    Attributes:
        name: as written between brackets.
        cls: the dataclass that holds its values.
        doc: one paragraph for operators.
        keys: by attribute of the dataclass, in the order of its declaration.
    """

    name: str
    cls: type[Any]
    doc: str
    keys: dict[str, Key]

    def find(self, written: str) -> tuple[Key, str | None] | None:
        """The key that a name of the file stands for, and the member if it is a family's.

        The case doesn't count, and the section's name may stand in front (`crypto.key_dir` in `[crypto]`).
        """
        for name in (written.lower(), written.lower().removeprefix(f"{self.name}.")):
            for each in self.keys.values():
                if each.name.lower() == name:
                    return each, None
                if each.is_family and name.startswith(each.name[:-1].lower()):
                    return each, name[len(each.name) - 1 :]
        return None

    def find_variable(self, rest: str) -> tuple[Key, str | None] | None:
        """The key that the last part of a variable's name stands for, and the member if it is a family's."""
        for name in (rest, rest.removeprefix(f"{self.name.upper()}_")):
            for each in self.keys.values():
                if _variable_part(each.name) == name:
                    return each, None
                family = _variable_part(each.name[:-1])
                if each.secret and name.endswith(FILE_SUFFIX):
                    continue  # names a file that holds the member
                if each.is_family and name.startswith(family) and name != family:
                    return each, name[len(family) :].lower()
        return None

    def variable(self, declared: Key) -> str:
        """The environment variable of a key; of a family, of its example."""
        return f"{_PREFIX}{self.name.upper()}__{_variable_part(declared.written_name)}"


def section(name: str, cls: type[Any]) -> Section:
    """Describe a section from its class."""
    keys = {each.name: each.metadata[_METADATA] for each in dataclasses.fields(cls) if _METADATA in each.metadata}
    return Section(name=name, cls=cls, doc=" ".join((cls.__doc__ or "").split()), keys=keys)


def variables(environ_names: Iterator[str]) -> Iterator[tuple[str, str, str]]:
    """Those names that are meant for this server: (name, section in lower case, rest)."""
    for name in environ_names:
        if name.startswith(_PREFIX):
            section_part, _, rest = name.removeprefix(_PREFIX).partition("__")
            yield name, section_part.lower(), rest


def _variable_part(name: str) -> str:
    return name.upper().replace(".", "_")
