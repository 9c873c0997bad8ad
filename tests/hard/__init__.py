"""Checks that take half an hour: `make test-hard`. `make test` never runs them whole."""
