"""Mirrors the code: tests/ops for legato.ops, tests/rpc for legato.rpc, tests/client for the SDK; tests/contract for
what holds of the repository as a whole."""
