"""What the offline commands share: pictures and clips in, codes and pictures out.

    for source in find(paths):                 # sources: image files, videos, folders of images or of clips, by name
        item = read(source, resolution)        # reading: uint8 [T, R, R, 3] with names and times; told: fitted, skipped
        write_frames(folder, "edited", images, item)  # writing: as many, named and timed as they came in

A file that cannot be read is told by name and left out; everything else goes on. Files appear when they are whole.
"""

from legato.offline.reading import Item, Timing, read
from legato.offline.sheets import labeled, spread
from legato.offline.sources import Source, find
from legato.offline.writing import write_frames, write_json, write_npz, write_png

__all__ = [
    "Item",
    "Source",
    "Timing",
    "find",
    "labeled",
    "read",
    "spread",
    "write_frames",
    "write_json",
    "write_npz",
    "write_png",
]
