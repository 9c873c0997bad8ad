"""Checks that take an hour: `make test-hard`. `make test` never runs them whole."""
