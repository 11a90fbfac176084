"""E-mail addresses: what is none is refused before anything is written, and what is one is mailed in its one form."""

from __future__ import annotations

import pytest

from tests.api.support import assert_refused, nothing_stored
from tests.support.harness import Harness, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOCAL = "zq8marker"

NOT_ADDRESSES = {
    "two ats": f"{LOCAL}@b@c.example",
    "no at": LOCAL,
    "no local part": "@zq8marker.example",
    "no domain": f"{LOCAL}@",
    "only an at": "@",
    "blank": " ",
    "display name": f"Mallory <{LOCAL}@example.org>",
    "quoted display name": f'"Mallory" <{LOCAL}@example.org>',
    "angle brackets": f"<{LOCAL}@example.org>",
    "comment": f"{LOCAL}(hello)@example.org",
    "comment in the domain": f"{LOCAL}@(hello)example.org",
    "list by comma": f"{LOCAL}@example.org,other@example.org",
    "list by comma and space": f"{LOCAL}@example.org, other@example.org",
    "list by semicolon": f"{LOCAL}@example.org;other@example.org",
    "group": f"friends: {LOCAL}@example.org;",
    "route": f"@relay.example:{LOCAL}@example.org",
    "percent route": f"{LOCAL}@example.org%other.example@relay.example",
    "header by CR LF": f"{LOCAL}@example.org\r\nBcc: other@example.org",
    "header by LF": f"{LOCAL}@example.org\nBcc: other@example.org",
    "header by CR": f"{LOCAL}@example.org\rBcc: other@example.org",
    "header in the local part": f"{LOCAL}\r\nBcc: other@example.org\r\n@example.org",
    "folded header": f"{LOCAL}@example.org\r\n Bcc: other@example.org",
    "next line": f"{LOCAL}@example.org\x85Bcc: other@example.org",
    "line separator": f"{LOCAL}@example.org\u2028Bcc: other@example.org",
    "paragraph separator": f"{LOCAL}@example.org\u2029",
    "end of SMTP data": f"{LOCAL}@example.org\r\n.\r\n",
    "NUL": f"{LOCAL}@example.org\x00.example",
    "tab": f"{LOCAL}\t@example.org",
    "vertical tab": f"{LOCAL}\x0b@example.org",
    "leading space": f" {LOCAL}@example.org",
    "trailing space": f"{LOCAL}@example.org ",
    "space inside": f"{LOCAL} b@example.org",
    "no-break space": f"{LOCAL}\u00a0@example.org",
    "ideographic space": f"{LOCAL}\u3000@example.org",
    "IPv4 literal": f"{LOCAL}@[127.0.0.1]",
    "IPv6 literal": f"{LOCAL}@[IPv6:::1]",
    "bare IPv4": f"{LOCAL}@127.0.0.1",
    "quoted local part": f'"{LOCAL}"@example.org',
    "quoted space": f'"{LOCAL} b"@example.org',
    "zero width space": f"{LOCAL}\u200b@example.org",
    "zero width non-joiner": f"{LOCAL}\u200c@example.org",
    "zero width joiner": f"{LOCAL}\u200d@example.org",
    "word joiner": f"{LOCAL}\u2060@example.org",
    "soft hyphen": f"{LOCAL}\u00ad@example.org",
    "byte order mark": f"\ufeff{LOCAL}@example.org",
    "right-to-left override": f"{LOCAL}\u202emoc@example.org",
    "left-to-right isolate": f"\u2066{LOCAL}\u2069@example.org",
    "right-to-left mark": f"{LOCAL}@\u200fexample.org",
    "Arabic letter mark": f"{LOCAL}\u061c@example.org",
    "tag character": f"{LOCAL}\U000e0041@example.org",
    "private use": f"{LOCAL}\ue000@example.org",
    "unassigned": f"{LOCAL}\u0378@example.org",
    "not a character": f"{LOCAL}\uffff@example.org",
    "lone combining mark first": f"\u0301{LOCAL}@example.org",
    "dot first": f".{LOCAL}@example.org",
    "dot last": f"{LOCAL}.@example.org",
    "two dots": f"{LOCAL}..b@example.org",
    "two dots in the domain": f"{LOCAL}@example..org",
    "dot first in the domain": f"{LOCAL}@.example.org",
    "dot last in the domain": f"{LOCAL}@example.org.",
    "hyphen first in the domain": f"{LOCAL}@-example.org",
    "underscore in the domain": f"{LOCAL}@exa_mple.org",
    "slash in the domain": f"{LOCAL}@example.org/x",
    "port": f"{LOCAL}@example.org:25",
    "broken punycode": f"{LOCAL}@xn--zzzzzzzzzzz\u00e9.example",
    "URL": f"mailto:{LOCAL}@example.org",
    "backslash": f"{LOCAL}\\@example.org",
    "fullwidth at": f"{LOCAL}\uff20example.org",
    "small at": f"{LOCAL}\ufe6bexample.org",
    "local part of 65 bytes": f"{LOCAL:z<65}@example.org",
    "label of 64 bytes": f"{LOCAL}@{'z' * 64}.example",
    "255 bytes": f"{LOCAL}@" + "a.z" * 78 + ".example.org"[:11],
    "255 bytes in few characters": f"{LOCAL}@" + "\u00e9." * 80 + "example",
    "500 characters": LOCAL + "z" * 490,
    "60 000 characters": f"{LOCAL}@" + "z." * 30_000 + "example",
}


@pytest.mark.parametrize("name", NOT_ADDRESSES)
async def test_no_address(server: Harness, alice: User, name: str) -> None:
    with nothing_stored(server):
        reply = await server.request_token(alice, NOT_ADDRESSES[name])
    assert_refused(reply, 400, "M_INVALID_EMAIL", hidden=LOCAL)


@pytest.mark.parametrize("name", [name for name, value in NOT_ADDRESSES.items() if len(value) <= 512])
async def test_no_address_to_unbind_either(server: Harness, name: str) -> None:
    body = {
        "sid": "unknown",
        "client_secret": "secret",
        "mxid": "@alice:example.org",
        "threepid": {"medium": "email", "address": NOT_ADDRESSES[name]},
    }
    with nothing_stored(server):
        reply = await server.post("3pid/unbind", body)
    assert_refused(reply, 400, "M_INVALID_PARAM", hidden=LOCAL)


FOLDED = {
    "as it is": ("plain@example.com", "plain@example.com"),
    "upper case": ("UPPER@EXAMPLE.COM", "upper@example.com"),
    "sharp s": ("stra\u00dfe@example.com", "strasse@example.com"),
    "capital sharp s": ("STRA\u1e9eE@example.com", "strasse@example.com"),
    "ligature": ("\ufb03ce@example.com", "ffice@example.com"),
    "long s": ("\u017fecret@example.com", "secret@example.com"),
    "Kelvin sign": ("\u212aelvin@example.com", "kelvin@example.com"),
    "final sigma": ("\u03bb\u03cc\u03b3\u03bf\u03c2@example.com", "\u03bb\u03cc\u03b3\u03bf\u03c3@example.com"),
    "decomposed": ("ame\u0301lie@example.com", "am\u00e9lie@example.com"),
    "composed": ("AM\u00c9LIE.2@example.com", "am\u00e9lie.2@example.com"),
    "decomposed upper case": ("ZOE\u0308@example.com", "zo\u00eb@example.com"),
    "sub-address": ("Sub+Address@example.com", "sub+address@example.com"),
    "odd but right": ("o'neil_{x}!#$%&*/=?^`|~-@example.com", "o'neil_{x}!#$%&*/=?^`|~-@example.com"),
    "domain in another script": ("domain@B\u00dcCHER.example", "domain@b\u00fccher.example"),
    "domain in punycode": ("puny@XN--BCHER-KVA.example", "puny@xn--bcher-kva.example"),
    "special-use domain": ("someone@host.local", "someone@host.local"),
    "local part of 64 bytes": ("l" * 64 + "@example.com", "l" * 64 + "@example.com"),
}


@pytest.mark.parametrize("name", FOLDED)
async def test_one_form_is_mailed_kept_and_found(server: Harness, name: str) -> None:
    written, folded = FOLDED[name]
    user = await server.register(f"@folds-{name.replace(' ', '-').lower()}:example.org")
    sid = await server.validated(user, written)
    assert server.mail.sent[-1].to == folded
    assert server.mail.sent[-1].variables["address"] == folded
    association = await server.bind(user, sid)
    assert association.json["address"] == folded
    assert await server.find(user, folded) == user.user_id
    again = await server.request_token(user, folded)
    assert again.json == {"sid": sid}, "both are one address"


async def test_mail_goes_to_nobody_but_the_folded_form(server: Harness) -> None:
    owner = await server.register("@owner:example.org")
    stranger = await server.register("@stranger:example.org")
    await server.bound(owner, "gross@example.com")
    requested = await server.request_token(stranger, "gro\u00df@example.com")
    assert requested.status == 200
    assert server.mail.sent[-1].to == "gross@example.com"
    assert await server.find(stranger, "gross@example.com") == owner.user_id
