"""The subcommands of `legato`, one a module, found by their file's name.

A module has `add_parser(subparsers)`, which adds its options under its own name, and `run(args) -> int`, the exit code.
It imports what is heavy inside `run`: `legato --help` imports every module here.
"""
