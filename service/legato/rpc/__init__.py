"""The gRPC face: server, servicer, one stream's tasks, messages, errors, image codecs."""
