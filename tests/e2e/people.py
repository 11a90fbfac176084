"""People with a Matrix account, who use the identity server as Element lets them.

The one rule: whatever of theirs must stay secret is written into the ledger the moment it exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from identity_server.api.visibility import VISIBILITY_PATH
from tests.e2e.mailbox import Mailbox, link_in
from tests.e2e.sdk import Sdk
from tests.e2e.web import Answer, Web, only_form
from tests.support.leaks import Ledger

_V2 = "/_matrix/identity/v2"
_IDENTITY_SERVICE = "SERVICE_TYPE_IS"


@dataclass(frozen=True, slots=True)
class Proof:
    """A validation session, which proves an address once the mailed link was followed, or the code submitted.

    Attributes:
        submit_url: where the homeserver wants the code, if it asked for it.
    """

    sid: str
    client_secret: str = field(repr=False)
    address: str = field(repr=False)
    submit_url: str = ""


@dataclass(frozen=True, slots=True)
class InviteLink:
    """What Element reads from the link of an invite's mail.

    Attributes:
        email: the address that was invited.
        sign_url: where to get a signature for joining.
        shown: what else the link says about the room and the one who invites.
    """

    web_client: str
    room_id: str
    email: str = field(repr=False)
    sign_url: str = field(repr=False)
    shown: Mapping[str, str]

    @classmethod
    def parse(cls, url: str) -> InviteLink:
        """Read `WEB_CLIENT/#/room/ROOM_ID?email=...&signurl=...`."""
        web_client, _, fragment = url.partition("/#/room/")
        room_id, _, query = fragment.partition("?")
        values = {name: value for name, (value,) in parse_qs(query, strict_parsing=True).items()}
        return cls(
            web_client=web_client,
            room_id=unquote(room_id),
            email=values.pop("email"),
            sign_url=values.pop("signurl"),
            shown=values,
        )


class Person:
    """Someone with an account on the homeserver.

    Attributes:
        user_id: their Matrix ID.
        token: their access token of the identity server, once registered with it.
    """

    def __init__(
        self, name: str, *, homeserver: str, identity_server: str, sdk: Sdk, web: Web, ledger: Ledger
    ) -> None:
        self._name = name
        self._sdk = sdk
        self._web = web
        self._ledger = ledger
        self._identity_server = identity_server
        self._homeserver = homeserver
        self.token = ""
        sdk.make_client(name, homeserver=homeserver, identity_server=identity_server)
        session = self._call(
            "registerRequest",
            {"username": name, "password": f"password of {name}", "auth": {"type": "m.login.dummy"}},
        )
        self.user_id: str = session["user_id"]
        self._session = session
        self.open_app()

    def open_app(self, *, lenient: bool = False) -> None:
        """Load the app anew: it remembers who is logged in, and the token of the identity server.

        Args:
            lenient: in a browser that lets Sydent's CORS headers pass, as they all do.
        """
        self._sdk.make_client(
            self._name,
            homeserver=self._homeserver,
            identity_server=self._identity_server,
            session=self._session,
            lenient=lenient,
        )

    def register(self) -> None:
        """Trade an OpenID token of the homeserver for an access token of the identity server."""
        openid = self._call("getOpenIdToken")
        self._ledger.note_token("OpenID token", openid["access_token"])
        answer = self._call("registerWithIdentityServer", openid)
        self.token = answer["token"]
        self._ledger.note_token("access token", self.token)
        self._sdk.give_identity_token(self._name, self.token)

    def who_am_i(self) -> str:
        """The Matrix ID that the identity server knows this person's token by."""
        user_id: str = self._call("getIdentityAccount", self.token)["user_id"]
        return user_id

    def terms_urls(self) -> list[str]:
        """For each policy the URL of one language, the first that the server offers."""
        policies = self._call("getTerms", _IDENTITY_SERVICE, self._identity_server)["policies"]
        return [
            next(text["url"] for language, text in policy.items() if language != "version")
            for policy in policies.values()
        ]

    def accept(self, urls: list[str]) -> None:
        """Agree to the terms at some URLs."""
        self._call("agreeToTerms", _IDENTITY_SERVICE, self._identity_server, self.token, urls)

    def join_identity_server(self) -> None:
        """Register and agree to everything that is asked."""
        self.register()
        self.accept(self.terms_urls())

    def prove_and_bind(self, address: str, mailbox: Mailbox) -> Proof:
        """Prove an address by the mailed link, and bind it."""
        proof = self.ask_for_mail(address)
        self.confirm(mailbox.take(proof.address))
        self.bind(proof)
        return proof

    def ask_for_mail(
        self, address: str, *, send_attempt: int = 1, again: Proof | None = None, next_link: str | None = None
    ) -> Proof:
        """Have a validation mail sent; `again` names the session to ask in once more."""
        secret = again.client_secret if again else self._call("generateClientSecret")
        self._ledger.note_token("client secret", secret)
        self._note(address)
        answer = self._call("requestEmailToken", address, secret, send_attempt, next_link, self.token)
        return Proof(sid=answer["sid"], client_secret=secret, address=address.lower())

    def open_link(self, letter: EmailMessage) -> Answer:
        """Open the mailed link's page."""
        link = link_in(letter)
        (token,) = parse_qs(urlsplit(link).query)["token"]
        self._ledger.note_token("mail token", token)
        return self._web.get(link)

    def press_confirm(self, page: Answer) -> Answer:
        """Press the one button of a confirm page."""
        form = only_form(page)
        assert form.method == "post"
        return self._web.post_form(form.action, form.fields)

    def confirm(self, letter: EmailMessage) -> None:
        """Open the mailed link, and press the button."""
        page = self.open_link(letter)
        assert page.status == 200, page.text
        result = self.press_confirm(page)
        assert result.status == 200, result.text

    def follow_link(self, letter: EmailMessage) -> Answer:
        """Open a link of Sydent's kind, which confirms by being opened."""
        page = self.open_link(letter)
        assert page.status == 200, page.text
        return page

    def bind(self, proof: Proof) -> None:
        """Have the homeserver bind a proven address to this person."""
        self._call(
            "bindThreePid",
            {
                "sid": proof.sid,
                "client_secret": proof.client_secret,
                "id_server": self._id_server,
                "id_access_token": self.token,
            },
        )

    def bind_directly(self, proof: Proof) -> dict[str, Any]:
        """Bind a proven address without the homeserver between, and see what it would be given."""
        answer = self._web.post_json(
            f"{self._identity_server}{_V2}/3pid/bind",
            {"sid": proof.sid, "client_secret": proof.client_secret, "mxid": self.user_id},
            bearer=self.token,
        )
        assert answer.status == 200, answer.text
        association: dict[str, Any] = answer.json()
        return association

    def unbind_by_session(self, proof: Proof) -> Answer:
        """Take a binding back, with nothing but the proof of the address."""
        return self._web.post_json(
            f"{self._identity_server}{_V2}/3pid/unbind",
            {
                "sid": proof.sid,
                "client_secret": proof.client_secret,
                "threepid": {"medium": "email", "address": proof.address},
                "mxid": self.user_id,
            },
        )

    def unbind_by_homeserver(self, address: str, *, medium: str = "email") -> str:
        """Have the homeserver take the binding of an address back; returns what it says of the identity server."""
        result: str = self._call("unbindThreePid", medium, address)["id_server_unbind_result"]
        return result

    def delete_address(self, address: str) -> str:
        """Have the homeserver forget an address altogether; returns what it says of the identity server."""
        result: str = self._call("deleteThreePid", "email", address)["id_server_unbind_result"]
        return result

    def deactivate(self) -> str:
        """Give the account up for good; returns what the homeserver says of the identity server."""
        result: str = self._call("deactivateAccount", self._password)["id_server_unbind_result"]
        return result

    # --- phone numbers --------------------------------------------------------------------

    def ask_for_text(self, country: str, number: str) -> Proof:
        """Have the identity server send a code to a number as somebody types it."""
        secret = self._call("generateClientSecret")
        self._ledger.note_token("client secret", secret)
        answer = self._call("requestMsisdnToken", country, number, secret, 1, None, self.token)
        return self._phone_proof(answer, secret)

    def ask_homeserver_for_text(self, country: str, number: str) -> Proof:
        """Have the homeserver ask the identity server for that."""
        secret = self._call("generateClientSecret")
        self._ledger.note_token("client secret", secret)
        answer = self._call("requestAdd3pidMsisdnToken", country, number, secret, 1)
        return self._phone_proof(answer, secret)

    def submit_code(self, proof: Proof, code: str) -> None:
        """Give the identity server the code of a text."""
        assert self._call("submitMsisdnToken", proof.sid, proof.client_secret, code, self.token) == {"success": True}

    def submit_to_homeserver(self, proof: Proof, code: str) -> None:
        """Give the homeserver the code of a text."""
        self._call("submitMsisdnTokenOtherUrl", proof.submit_url, proof.sid, proof.client_secret, code)

    def add_to_account(self, proof: Proof) -> None:
        """Have the homeserver remember a proven address, for itself alone."""
        self._call(
            "addThreePidOnly", {"sid": proof.sid, "client_secret": proof.client_secret, "auth": self._password}
        )

    def addresses(self) -> list[tuple[str, str]]:
        """What the homeserver remembers of this person's addresses, each with its medium."""
        return [(each["medium"], each["address"]) for each in self._call("getThreePids")["threepids"]]

    def _phone_proof(self, answer: Mapping[str, str], secret: str) -> Proof:
        self._ledger.note("phone number", answer["msisdn"])
        return Proof(
            sid=answer["sid"],
            client_secret=secret,
            address=answer["msisdn"],
            submit_url=answer.get("submit_url", ""),
        )

    # --- rooms ----------------------------------------------------------------------------

    def create_room(self, name: str, *, is_space: bool = False, invites: Sequence[str] = ()) -> str:
        """Make a room that is joined by invitation only, invite e-mail addresses to it, and return its ID."""
        self._note(*invites)
        options: dict[str, Any] = {
            "name": name,
            "preset": "private_chat",
            "creation_content": {"type": "m.space"} if is_space else {},
            "invite_3pid": [
                {"id_server": self._id_server, "medium": "email", "address": address} for address in invites
            ],
        }
        room_id: str = self._call("createRoom", options)["room_id"]
        return room_id

    def invite_by_email(self, room_id: str, address: str) -> None:
        """Have the homeserver invite whoever an address belongs to, now or one day."""
        self._note(address)
        self._call("inviteByThreePid", room_id, "email", address)

    def open_invite(self, letter: EmailMessage) -> InviteLink:
        """Open the mailed link as Element does, which reads it and asks nobody."""
        link = InviteLink.parse(link_in(letter))
        (private_key,) = parse_qs(urlsplit(link.sign_url).query)["private_key"]
        self._ledger.note_token("invite's private key", private_key)
        return link

    def invites(self) -> dict[str, list[dict[str, Any]]]:
        """The rooms that this person is invited to now, each with what its homeserver shows of it."""
        rooms = self._call("http.authedRequest", "GET", "/sync", {"timeout": 0}).get("rooms", {})
        return {room_id: room["invite_state"]["events"] for room_id, room in rooms.get("invite", {}).items()}

    def join(self, room_id: str, *, sign_url: str | None = None) -> None:
        """Join a room, with the signature of an invite's own key if there is a URL for it."""
        self._call("joinRoom", room_id, {"inviteSignUrl": sign_url} if sign_url else {})

    def state_of(self, room_id: str) -> list[dict[str, Any]]:
        """The state of a room that this person is in."""
        state: list[dict[str, Any]] = self._call("roomState", room_id)
        return state

    def members_of(self, room_id: str) -> set[str]:
        """Who is in a room that this person is in."""
        return set(self._call("getJoinedRoomMembers", room_id)["joined"])

    # --- finding --------------------------------------------------------------------------

    def look_up(self, *addresses: str, medium: str = "email") -> dict[str, str]:
        """Who the addresses belong to, by address as it was asked for."""
        pairs = [[address, medium] for address in addresses]
        return {found["address"]: found["mxid"] for found in self._call("identityHashedLookup", pairs, self.token)}

    def look_up_hashes(self, hashes: Sequence[str], *, pepper: str) -> Answer:
        """Ask for hashes that were made earlier, with the pepper of then."""
        return self._web.post_json(
            f"{self._identity_server}{_V2}/lookup",
            {"algorithm": "sha256", "pepper": pepper, "addresses": list(hashes)},
            bearer=self.token,
        )

    def hide(self, address: str, *, visibility: str) -> None:
        """Say who may know of one's binding of an address."""
        answer = self._web.post_json(
            f"{self._identity_server}{VISIBILITY_PATH}",
            {"medium": "email", "address": address, "visibility": visibility},
            bearer=self.token,
            method="PUT",
        )
        assert answer.status == 200, answer.text

    def pepper(self) -> str:
        """The pepper now in use."""
        pepper: str = self._call("getIdentityHashDetails", self.token)["lookup_pepper"]
        return pepper

    def log_out(self) -> None:
        """End the access token. The SDK has no method of its own for it, so this is its plumbing."""
        self._call("http.idServerRequest", "POST", "/account/logout", None, _V2, self.token)

    @property
    def _password(self) -> dict[str, Any]:
        """How the homeserver is shown that it is them."""
        return {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": f"password of {self._name}",
        }

    @property
    def _id_server(self) -> str:
        """What the identity server is called when homeservers are told of it."""
        return urlsplit(self._identity_server).netloc

    def _note(self, *addresses: str) -> None:
        for address in addresses:
            self._ledger.note_address(address, pepper=self.pepper())

    def _call(self, method: str, *args: Any) -> Any:
        return self._sdk.call(self._name, method, *args)
