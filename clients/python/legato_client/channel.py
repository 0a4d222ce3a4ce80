"""How a channel is set up, the same for both transports."""

from __future__ import annotations

import json

DEFAULT_ADDRESS = "127.0.0.1:50051"
LARGEST_ANSWER = 256 << 20  # bytes; the server is trusted with what it sends

_RETRIED = ("Invert", "Synthesize", "ListModels", "ListDirections", "GetSession")
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "legato.v1.InversionService", "method": method} for method in _RETRIED],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", LARGEST_ANSWER),
    ("grpc.max_send_message_length", -1),  # the server says what it takes
    ("grpc.keepalive_time_ms", 30_000),  # a dead peer is noticed within 40 s, even while nothing is sent
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # two clients never share a connection, nor its backoff
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
)
