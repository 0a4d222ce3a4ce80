"""A method and its options, as text: "NAME:key=value,key=value"."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from legato.errors import InvalidInput
from legato.inversion.consecutive import ConsecutiveOptions
from legato.inversion.in_domain import InDomainOptions
from legato.inversion.multi_code import MultiCodeOptions

METHODS = ("encoder", "w", "w_plus", "in_domain", "consecutive", "multi_code")
_BOOL = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class WPlusOptions:
    """Optimization of each image for itself, in W or W+ as the method's name says."""

    start: Literal["encoder", "w_avg"] = "encoder"
    steps: int = 100
    lr: float = 0.05
    perceptual_weight: float = 1.0  # where there are features; else the pyramid is compared
    latent_noise: float = 0.0  # strength; .05 in the projector
    noise_weight: float = 0.0  # of the regularization of free noise maps; 1e5 in the projector, 0: noise stays
    seed: int = 0


Options = WPlusOptions | InDomainOptions | ConsecutiveOptions | MultiCodeOptions


@dataclass(frozen=True, slots=True)
class Method:
    """A method and its options (None: of "encoder"); `label` is what it was asked for as."""

    name: str
    options: Options | None
    label: str

    @property
    def steps(self) -> int:
        """Steps that each solve takes at most."""
        return self.options.steps if self.options else 0

    def with_options(self, **values: Any) -> Method:
        """The same with some options changed; "encoder" has none and stays. Raises InvalidInput as they do."""
        return replace(self, options=replace(self.options, **values)) if self.options else self


def parse_method(text: str) -> Method:
    """A method from "NAME" or "NAME:key=value,key=value"; "released" in place of a key takes a paper's own options.

    Raises InvalidInput for a name, a key or a value that is not known; the message lists those that are.
    """
    name, _, rest = text.strip().partition(":")
    kinds: dict[str, Any] = {
        "encoder": None,
        "w": WPlusOptions,
        "w_plus": WPlusOptions,
        "in_domain": InDomainOptions,
        "consecutive": ConsecutiveOptions,
        "multi_code": MultiCodeOptions,
    }
    if name not in kinds:
        raise InvalidInput(f"no method is named {name!r}; there are {', '.join(METHODS)}", reason="UNKNOWN_METHOD")
    if kinds[name] is None:
        if rest:
            raise InvalidInput(f"the method 'encoder' takes no options; got {rest!r}", reason="METHOD_OPTIONS")
        return Method(name, None, name)
    return Method(name, _options(kinds[name], rest, name), text.strip())


def _options(kind: type[Any], text: str, name: str) -> Any:
    """`kind`, a frozen dataclass, with the values that `text` gives; an entry without "=" names a preset of it.

    Raises InvalidInput for a key or value that does not exist; the message lists those that do.
    """
    hints = get_type_hints(kind)
    keys = [field.name for field in fields(kind) if _readable(hints[field.name])]
    presets = ["released"] if hasattr(kind, "released") else []
    values: dict[str, Any] = {}
    preset = ""
    for entry in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals and key in presets:
            preset = key
            continue
        if key not in keys or not equals:
            known = ", ".join(["KEY=VALUE with one of " + ", ".join(keys), *presets])
            raise InvalidInput(f"{name} has no option {entry!r}; there are {known}", reason="METHOD_OPTIONS")
        values[key] = _value(hints[key], value, f"{name}: {key}")
    if not preset:
        return kind(**values)
    base = getattr(kind, preset)()
    return type(base)(**({field.name: getattr(base, field.name) for field in fields(base)} | values))


def _readable(hint: Any) -> bool:
    return hint in (int, float, bool, str) or get_origin(hint) is Literal


def _value(hint: Any, text: str, where: str) -> Any:
    if get_origin(hint) is Literal:
        if text in get_args(hint):
            return text
        wanted = f"one of {', '.join(get_args(hint))}"
    elif hint is bool:
        if text.lower() in _BOOL:
            return _BOOL[text.lower()]
        wanted = "true or false"
    elif hint is str:
        return text
    else:
        try:
            value = hint(text)
            if math.isfinite(value):
                return value
        except ValueError:
            pass
        wanted = "a whole number" if hint is int else "a number"
    raise InvalidInput(f"{where} is {wanted}; got {text!r}", reason="METHOD_OPTIONS")
