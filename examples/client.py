"""Ten lines of client, beside a running `legato serve`: python examples/client.py FOLDER_OF_PNG OUT [ADDRESS]."""

import sys
from pathlib import Path

from legato_client import Client, FrameResult

source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(parents=True, exist_ok=True)
frames = (file.read_bytes() for file in sorted(source.glob("*.png")))
with Client(*sys.argv[3:]) as client, client.open(edits={"smile": 2.0}) as session:
    for answer in session.stream(frames):
        if isinstance(answer, FrameResult) and answer.edited:
            (target / f"{answer.seq:04d}.jpg").write_bytes(answer.edited.data)
        else:
            print(answer, file=sys.stderr)
