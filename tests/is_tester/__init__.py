"""What the public conformance suite matrix-is-tester needs to run against this server; see docs/contributing.md."""
