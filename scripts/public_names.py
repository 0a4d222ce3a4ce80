"""Prints every public name, by module, as JSON: `python scripts/public_names.py > tests/contract/public_names.json`.

Public is what the `__all__` of a package or module without underscore lists.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys

PACKAGES = ("legato", "legato_align", "legato_client")


def public_names() -> dict[str, list[str]]:
    """Sorted names of each module that has an `__all__`. AttributeError where one of them is not there."""
    found = {}
    for package in PACKAGES:
        root = importlib.import_module(package)
        children = pkgutil.walk_packages(root.__path__, f"{package}.")
        names = [package, *(child.name for child in children if not child.name.rpartition(".")[2].startswith("_"))]
        for name in names:
            module = importlib.import_module(name)
            if hasattr(module, "__all__"):
                missing = [public for public in module.__all__ if not hasattr(module, public)]
                if missing:
                    raise AttributeError(f"{name}.__all__ lists {missing}, which {name} does not have")
                found[name] = sorted(module.__all__)
    return found


def main() -> int:
    json.dump(public_names(), sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
