"""What an app does before it finds somebody, by means of the generated client alone.

Run by tests/clients/test_python_client.py with the Python of .venv-client: the server's address, the homeserver, an
OpenID token and an e-mail address are its arguments. Prints what it has found, as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from base64 import urlsafe_b64encode
from typing import TypeVar

from matrix_identity_client import AuthenticatedClient, Client
from matrix_identity_client.api.account import logout, register, whoami
from matrix_identity_client.api.lookup import hash_details, lookup
from matrix_identity_client.api.terms import accept_terms, get_terms
from matrix_identity_client.models import (
    AccountOwner,
    Error,
    HashDetails,
    HashedAddresses,
    LookupResult,
    OpenIdCredentials,
    Registration,
    TermsAcceptance,
    TermsInForce,
)

Answer = TypeVar("Answer")


def given(answer: object, kind: type[Answer]) -> Answer:
    """The answer, if it is of this kind."""
    assert isinstance(answer, kind), answer
    return answer


def hashed(address: str, pepper: str) -> str:
    """How an e-mail address is looked up."""
    digest = hashlib.sha256(f"{address} email {pepper}".encode()).digest()
    return urlsafe_b64encode(digest).decode().rstrip("=")


def accept_what_is_in_force(client: AuthenticatedClient) -> int:
    """Accept every document in English; how many they are."""
    terms = given(get_terms.sync(client=client), TermsInForce)
    policies = terms.policies.additional_properties.values()
    urls = [policy.additional_properties["en"].url for policy in policies]
    accept_terms.sync(client=client, body=TermsAcceptance(user_accepts=urls))
    return len(urls)


async def find(client: AuthenticatedClient, address: str) -> dict[str, str]:
    """Whose an address is."""
    details = given(await hash_details.asyncio(client=client), HashDetails)
    assert "sha256" in details.algorithms
    query = hashed(address, details.lookup_pepper)
    body = HashedAddresses(algorithm="sha256", pepper=details.lookup_pepper, addresses=[query])
    found = given(await lookup.asyncio(client=client, body=body), LookupResult)
    return {address: found.mappings.additional_properties[query]}


def main(base_url: str, homeserver: str, openid_token: str, address: str) -> None:
    """The whole story."""
    credentials = OpenIdCredentials(matrix_server_name=homeserver, access_token=openid_token)
    with Client(base_url=base_url, raise_on_unexpected_status=True) as stranger:
        registration = given(register.sync(client=stranger, body=credentials), Registration)
    client = AuthenticatedClient(base_url=base_url, token=registration.token, raise_on_unexpected_status=True)
    with client:
        early = given(whoami.sync(client=client), Error)
        documents = accept_what_is_in_force(client)
        owner = given(whoami.sync(client=client), AccountOwner)
        mappings = asyncio.run(find(client, address))
        logout.sync(client=client)
        late = given(whoami.sync(client=client), Error)
    told = {"documents": documents, "user_id": owner.user_id, "mappings": mappings}
    print(json.dumps({**told, "early": early.errcode, "late": late.errcode}))


if __name__ == "__main__":
    main(*sys.argv[1:])
