"""One setting: what is known of it, how a text becomes its value, what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

from legato.errors import ConfigError

T = TypeVar("T")
SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one key beyond its type and default: help text, unit, range or choices."""

    help: str
    unit: str = ""
    minimum: float = -math.inf
    maximum: float = math.inf
    choices: tuple[str, ...] = ()


def setting(
    default: T,
    help: str,
    *,
    unit: str = "",
    minimum: float = -math.inf,
    maximum: float = math.inf,
    choices: tuple[str, ...] = (),
) -> T:
    """A dataclass field that carries its Setting."""
    value: T = field(default=default, metadata={"setting": Setting(help, unit, minimum, maximum, choices)})
    return value


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the tree: its full name "section.name", the type of its value, its default and its Setting."""

    name: str
    type: Any
    default: Any
    setting: Setting

    @property
    def flag(self) -> str:
        """Its command-line option: "server.max_pixels" -> "--max-pixels"."""
        return "--" + self.name.split(".")[1].replace("_", "-")

    @property
    def wanted(self) -> str:
        """What a value must be, in words."""
        spec = self.setting
        if spec.choices:
            return "one of " + ", ".join(spec.choices)
        words = {int: "an integer", float: "a finite number", str: "a text", bool: "true or false"}
        word = words.get(self.type, "a list of integers such as 1,2,4") + (f" of {spec.unit}" if spec.unit else "")
        if math.isfinite(spec.minimum) and math.isfinite(spec.maximum):
            return f"{word} between {spec.minimum:g} and {spec.maximum:g}"
        return f"{word} from {spec.minimum:g} up" if math.isfinite(spec.minimum) else word

    def parse(self, text: str, origin: str) -> Any:
        """The checked value of a text from the environment or the command line."""
        try:
            if self.type is bool:
                value: Any = SWITCH[text.strip().lower()]
            else:
                value = tuple(int(n) for n in text.split(",")) if self.type == tuple[int, ...] else self.type(text)
        except (ValueError, KeyError):
            raise ConfigError(f"{self.name} is {self.wanted}; got {text!r}{origin}") from None
        return self.check(value, origin)

    def check(self, value: Any, origin: str = "") -> Any:
        """The value, if its type, range and choice are right; else ConfigError."""
        listed = self.type == tuple[int, ...]
        parts = value if listed and isinstance(value, tuple) else (value,)
        kind = int if listed else self.type
        right = isinstance(value, tuple) == listed and all(type(part) is kind for part in parts)
        if right and kind is not str:
            right = all(math.isfinite(part) and self.setting.minimum <= part <= self.setting.maximum for part in parts)
        if not right or (self.setting.choices and value not in self.setting.choices):
            raise ConfigError(f"{self.name} is {self.wanted}; got {value!r}{origin}")
        return value
