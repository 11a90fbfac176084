"""The route table: everything that can be asked, and who may ask it."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from identity_server.api import (
    account,
    document,
    erasure,
    internal,
    invitations,
    lookup,
    privacy,
    pubkey,
    status,
    terms,
    threepid,
    v1,
    validate,
    validate_msisdn,
    visibility,
)
from identity_server.api.app_keys import V1Switches
from identity_server.api.guard import guarded
from identity_server.api.route import Access, Answers, Reads, Route
from identity_server.api.validate_parts import bad_email_link, bad_phone_link
from identity_server.rendering.policies import TERMS_PATH
from identity_server.rendering.templates import PRIVACY_PATH

_V1 = "/_matrix/identity/api/v1"
_V2 = "/_matrix/identity/v2"
_INTERNAL = "/_matrix/identity/internal"
_LOOKUP_BODY = 1024 * 1024
_SIGNED_BODY = 8 * 1024
"""It is written anew for each signature and each name of this server, before anybody is known to have signed it."""
_POLICY_PATH = TERMS_PATH.format(id="{policy}", version="{version}", language="{language}")


OPEN, TOKEN, ACCOUNT, TERMS = Access.OPEN, Access.TOKEN, Access.ACCOUNT, Access.ACCOUNT_AND_TERMS

ROUTES: Final = (
    Route("GET", "/_matrix/identity/versions", status.versions, OPEN),
    Route("GET", _V2, status.ping, OPEN),
    Route("POST", f"{_V2}/account/register", account.register, OPEN),
    Route("GET", f"{_V2}/account", account.whoami, TERMS),
    Route("POST", f"{_V2}/account/logout", account.logout, TOKEN),
    Route("GET", f"{_V2}/terms", terms.get_terms, OPEN),
    Route("POST", f"{_V2}/terms", terms.accept_terms, ACCOUNT),
    Route("GET", f"{_V2}/pubkey/isvalid", pubkey.is_valid, OPEN),
    Route("GET", f"{_V2}/pubkey/ephemeral/isvalid", pubkey.is_valid_ephemeral, OPEN),
    Route("GET", f"{_V2}/pubkey/{{key_id}}", pubkey.get_key, OPEN),
    Route("GET", f"{_V2}/hash_details", lookup.hash_details, TERMS),
    Route("POST", f"{_V2}/lookup", lookup.lookup, TERMS, own_limit=_LOOKUP_BODY),
    Route("POST", f"{_V2}/validate/email/requestToken", validate.request_email_token, TERMS),
    Route("POST", f"{_V2}/validate/email/submitToken", validate.submit_email_token, TERMS),
    # The link in a mail carries no token; session id, client secret and mail token are the proof.
    Route(
        "GET",
        f"{_V2}/validate/email/submitToken",
        validate.follow_email_link,
        OPEN,
        Answers.PAGE,
        # Whoever only asks what is there has not followed the link.
        answers_head=False,
        bad_link=bad_email_link,
    ),
    Route("POST", f"{_V2}/validate/msisdn/requestToken", validate_msisdn.request_msisdn_token, TERMS),
    Route("POST", f"{_V2}/validate/msisdn/submitToken", validate_msisdn.submit_msisdn_token, TERMS),
    # Nor does one in a text message carry a token.
    Route(
        "GET",
        f"{_V2}/validate/msisdn/submitToken",
        validate_msisdn.follow_msisdn_link,
        OPEN,
        Answers.PAGE,
        answers_head=False,
        bad_link=bad_phone_link,
    ),
    Route("GET", f"{_V2}/3pid/getValidated3pid", threepid.get_validated_threepid, TERMS),
    Route("POST", f"{_V2}/3pid/bind", threepid.bind, TERMS),
    # Homeservers unbind without an account: by a session of the address's owner, or by their signature.
    Route("POST", f"{_V2}/3pid/unbind", threepid.unbind, Access.HOMESERVER, own_limit=_SIGNED_BODY),
    Route("POST", f"{_V2}/store-invite", invitations.store_invite, TERMS),
    Route("POST", f"{_V2}/sign-ed25519", invitations.sign, TERMS),
    # Not in the specification. To see and to hide what is about oneself takes no consent to new terms.
    Route("GET", visibility.VISIBILITY_PATH, visibility.list_own, ACCOUNT),
    Route("PUT", visibility.VISIBILITY_PATH, visibility.change, ACCOUNT),
    Route("POST", erasure.ERASE_PATH, erasure.erase, Access.HOMESERVER, own_limit=_SIGNED_BODY),
    # Pages for people, below the prefix that every proxy already forwards.
    Route("GET", validate.CONFIRM_PATH, validate.show_confirm_page, OPEN, Answers.PAGE),
    Route("POST", validate.CONFIRM_PATH, validate.confirm, OPEN, Answers.PAGE),
    Route("GET", _POLICY_PATH, terms.show_policy, OPEN, Answers.PAGE),
    Route("GET", PRIVACY_PATH, privacy.show_ask_page, OPEN, Answers.PAGE),
    Route("GET", privacy.RETENTION_PATH, privacy.show_retention, OPEN, Answers.PAGE),
    Route("POST", PRIVACY_PATH, privacy.ask, OPEN, Answers.PAGE),
    Route("POST", privacy.PHONE_PATH, privacy.ask_by_phone, OPEN, Answers.PAGE),
    Route("POST", privacy.CODE_PATH, privacy.enter_code, OPEN, Answers.PAGE, bad_link=privacy.bad_link),
    Route("GET", privacy.OPEN_PATH, privacy.show_open_page, OPEN, Answers.PAGE, bad_link=privacy.bad_link),
    Route("POST", privacy.OPEN_PATH, privacy.open_visit, OPEN, Answers.PAGE, bad_link=privacy.bad_link),
    Route("POST", privacy.SHOW_PATH, privacy.show, OPEN, Answers.PAGE, bad_link=privacy.bad_link),
    Route("POST", privacy.REMOVE_PATH, privacy.remove, OPEN, Answers.PAGE, bad_link=privacy.bad_link),
    Route("POST", privacy.REFUSE_PATH, privacy.refuse, OPEN, Answers.PAGE, bad_link=privacy.bad_link),
    Route("POST", privacy.ALLOW_PATH, privacy.allow, OPEN, Answers.PAGE, bad_link=privacy.bad_link),
    Route("POST", privacy.DOWNLOAD_PATH, privacy.download, OPEN, Answers.PAGE, bad_link=privacy.bad_link),
    # For programs, and those who write them.
    Route("GET", document.DOCUMENT_PATH, document.show_document, OPEN),
    # For operators' tools.
    Route("GET", "/health", status.health, OPEN),
    Route("GET", "/ready", status.ready, OPEN),
)


V1_ALWAYS: Final = (
    # What mails, room events and clients already point at: it answers whether v1 is switched on or not.
    Route("GET", _V1, status.ping, OPEN),
    Route("GET", f"{_V1}/pubkey/isvalid", pubkey.is_valid, OPEN),
    Route("GET", f"{_V1}/pubkey/ephemeral/isvalid", pubkey.is_valid_ephemeral, OPEN),
    Route("GET", f"{_V1}/pubkey/{{key_id}}", pubkey.get_key, OPEN),
    Route("POST", f"{_V1}/sign-ed25519", invitations.sign, OPEN, reads=Reads.ANYTHING),
    Route(
        "GET",
        f"{_V1}/validate/email/submitToken",
        validate.follow_email_link,
        OPEN,
        Answers.PAGE,
        answers_head=False,
        bad_link=bad_email_link,
    ),
)

V1_ACCESS: Final = (
    Route("POST", f"{_V1}/validate/email/requestToken", validate.request_email_token, OPEN, reads=Reads.ANYTHING),
    Route("POST", f"{_V1}/validate/email/submitToken", validate.submit_email_token, OPEN, reads=Reads.ANYTHING),
    Route(
        "POST",
        f"{_V1}/validate/msisdn/requestToken",
        validate_msisdn.request_msisdn_token,
        OPEN,
        reads=Reads.ANYTHING,
    ),
    Route(
        "POST",
        f"{_V1}/validate/msisdn/submitToken",
        validate_msisdn.submit_msisdn_token,
        OPEN,
        reads=Reads.ANYTHING,
    ),
    Route(
        "GET",
        f"{_V1}/validate/msisdn/submitToken",
        validate_msisdn.follow_msisdn_link,
        OPEN,
        Answers.PAGE,
        answers_head=False,
        bad_link=bad_phone_link,
    ),
    Route("GET", f"{_V1}/3pid/getValidated3pid", threepid.get_validated_threepid, OPEN),
    Route("POST", f"{_V1}/3pid/unbind", threepid.unbind, Access.HOMESERVER, own_limit=_SIGNED_BODY),
    Route("POST", f"{_V1}/store-invite", invitations.store_invite, OPEN, reads=Reads.ANYTHING),
)

V1_ASSOCIATIONS: Final = (Route("POST", f"{_V1}/3pid/bind", threepid.bind, OPEN, reads=Reads.ANYTHING),)

V1_LOOKUP: Final = (
    Route("GET", f"{_V1}/lookup", v1.lookup, OPEN),
    Route("POST", f"{_V1}/bulk_lookup", v1.bulk_lookup, OPEN, own_limit=_LOOKUP_BODY),
)

INTERNAL_ROUTES: Final = (
    Route("POST", f"{_INTERNAL}/bind", internal.bind, Access.INTERNAL),
    Route("POST", f"{_INTERNAL}/unbind", internal.unbind, Access.INTERNAL),
)


def client_routes(versions: V1Switches) -> tuple[Route, ...]:
    """Everything that the client listener answers, as configured."""
    routes: tuple[Route, ...] = ROUTES + V1_ALWAYS
    if versions.access:
        routes += V1_ACCESS
        routes += V1_ASSOCIATIONS if versions.associations else ()
        routes += V1_LOOKUP if versions.lookup else ()
    return routes


def add_routes(app: web.Application, routes: tuple[Route, ...]) -> None:
    """Put every row behind its guard."""
    for route in routes:
        handler = guarded(route)
        for method in route.methods:
            app.router.add_route(method, route.path, handler)
