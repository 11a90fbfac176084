"""Whole stories against a real Synapse and the real matrix-js-sdk, over TLS and SMTP on loopback.

`install-needs` puts Synapse into .venv-synapse and the SDK into node_modules here.
"""
