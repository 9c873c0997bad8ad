"""Checks that take one to two hours: `make test-hard`. `make test` never runs them whole."""
