"""The package that matrix-is-tester imports."""
