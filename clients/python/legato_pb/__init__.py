"""Messages and gRPC stubs of legato.v1, generated from protos/legato/v1 by `make proto`; not written by hand."""
