"""Units of SENSOR values (docs/protocol.md section 8.12).

One prefix and up to six SI units with exponents are packed into 64 bits.
"""

from __future__ import annotations

import re
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from igtl.extras import need

_PREFIXES: Final = {
    "": 0, "da": 1, "h": 2, "k": 3, "M": 4, "G": 5, "T": 6, "P": 7, "d": 9, "c": 0xA, "m": 0xB,
    "u": 0xC, "n": 0xD, "p": 0xE, "f": 0xF,
}  # fmt: skip
_SYMBOLS: Final = (
    "", "m", "g", "s", "A", "K", "mol", "cd", "rad", "sr", "Hz", "N", "Pa", "J", "W", "C", "V",
    "F", "Ohm", "S", "Wb", "T", "H", "lm", "lx", "Bq", "Gy", "Sv",
)  # fmt: skip
_UNITS: Final = {symbol: code for code, symbol in enumerate(_SYMBOLS) if code}
_ALIASES: Final = {"\N{MICRO SIGN}": "u", "\N{GREEK SMALL LETTER MU}": "u"}
_OHMS: Final = {"\N{GREEK CAPITAL LETTER OMEGA}": "Ohm", "\N{OHM SIGN}": "Ohm", "ohm": "Ohm"}
_POWERS: Final = {
    "": 0, "da": 1, "h": 2, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "d": -1, "c": -2, "m": -3,
    "u": -6, "n": -9, "p": -12, "f": -15,
}  # fmt: skip
# in base units of the SI, and angles, so that rad/s is not Hz
_DERIVED: Final = {
    "Hz": {"s": -1}, "N": {"m": 1, "kg": 1, "s": -2}, "Pa": {"m": -1, "kg": 1, "s": -2},
    "J": {"m": 2, "kg": 1, "s": -2}, "W": {"m": 2, "kg": 1, "s": -3}, "C": {"s": 1, "A": 1},
    "V": {"m": 2, "kg": 1, "s": -3, "A": -1}, "F": {"m": -2, "kg": -1, "s": 4, "A": 2},
    "Ohm": {"m": 2, "kg": 1, "s": -3, "A": -2}, "S": {"m": -2, "kg": -1, "s": 3, "A": 2},
    "Wb": {"m": 2, "kg": 1, "s": -2, "A": -1}, "T": {"kg": 1, "s": -2, "A": -1},
    "H": {"m": 2, "kg": 1, "s": -2, "A": -2}, "lm": {"cd": 1, "sr": 1},
    "lx": {"m": -2, "cd": 1, "sr": 1}, "Bq": {"s": -1}, "Gy": {"m": 2, "s": -2},
    "Sv": {"m": 2, "s": -2}, "g": {"kg": 1},
}  # fmt: skip
_TERM: Final = re.compile(r"([^\d\^*/·.+-]+)(?:\^?([+-]?\d+))?")


class Unit(int):
    """A unit, as the 64-bit number that travels, made from and shown as text.

    >>> Unit("mm/s^2")
    Unit('mm/s^2')
    >>> hex(Unit("N*m")), str(Unit(0x02C4110000000000))
    ('0x2c4110000000000', 'N*m')

    There is one prefix for the whole product and it stands before the first term; `Unit("kN*mm")`
    is refused. 0 is "no unit given". Numbers that mean no unit are kept and shown in hex.

    Raises:
        ValueError: the text is not a product of known units.
    """

    __slots__ = ()

    def __new__(cls, unit: int | str = 0) -> Self:
        """Make a unit from its text or its number."""
        if isinstance(unit, str):
            return super().__new__(cls, _parse(unit))
        if not 0 <= unit < 1 << 64:
            raise ValueError(f"a unit has 64 bits, {unit} does not fit")
        return super().__new__(cls, unit)

    @property
    def prefix(self) -> int:
        """Code of the prefix, 0 for none."""
        return int(self) >> 60

    @property
    def terms(self) -> tuple[tuple[int, int], ...]:
        """The six (unit code, exponent) pairs; (0, 0) where unused."""
        pairs = []
        for k in range(6):
            bits = int(self) >> (50 - 10 * k)
            exponent = bits & 0xF
            pairs.append((bits >> 4 & 0x3F, exponent - 16 if exponent > 7 else exponent))
        return tuple(pairs)

    def convert(self, values: npt.ArrayLike, to: Unit | str) -> npt.NDArray[np.float64]:
        """Values of this unit in another: `Unit("N").convert(sensor.values, "mN")`.

        Args:
            values: numbers in this unit, of any shape.
            to: the other unit, or its text.

        Raises:
            ValueError: the units do not measure the same thing, one is unknown, or one has a prefix
                at a power: the prefix of "mm^2" on the wire is that of the whole product (1e-3 m²),
                and few programs that write it mean that.
        """
        other = Unit(to)
        (factor, here), (below, there) = self._in_si(), other._in_si()
        if here != there:
            raise ValueError(f"{self} and {other} do not measure the same thing")
        found: npt.NDArray[np.float64] = np.asarray(values, np.float64) * (factor / below)
        return found

    def to_pint(self, registry: Any = None) -> Any:
        """As a unit of pint (`igtl[units]`): `sensor.values * unit.to_pint(registry)`.

        Args:
            registry: a pint.UnitRegistry; default pint's own.

        Raises:
            ValueError: see convert.
        """
        self._in_si()
        registry = registry or need("pint", "units").get_application_registry()
        return registry.Unit(str(self).replace("Ohm", "ohm") if self else "dimensionless")

    def _in_si(self) -> tuple[float, dict[str, int]]:
        """Return how many of the SI unit one is, and the exponents of the base units."""
        used = [(code, exponent) for code, exponent in self.terms if code or exponent]
        prefix = next((text for text, code in _PREFIXES.items() if code == self.prefix), None)
        if prefix is None or not all(0 < code < len(_SYMBOLS) for code, _ in used):
            raise ValueError(f"{self} is not a known unit")
        if prefix and used and used[0][1] != 1:
            raise ValueError(f"{self}: a prefix at a power has two meanings; convert it yourself")
        power, base = _POWERS[prefix], dict[str, int]()
        for code, exponent in used:
            symbol = _SYMBOLS[code]
            power -= 3 * exponent if symbol == "g" else 0
            for name, each in _DERIVED.get(symbol, {symbol: 1}).items():
                base[name] = base.get(name, 0) + each * exponent
        return 10.0**power, {name: e for name, e in base.items() if e}

    def __str__(self) -> str:
        used = [(code, exponent) for code, exponent in self.terms if code or exponent]
        prefixes = {code: text for text, code in _PREFIXES.items()}
        if all(0 < code < len(_SYMBOLS) for code, _ in used) and self.prefix in prefixes:
            above = "*".join(_power(code, e) for code, e in used if e > 0)
            below = "".join("/" + _power(code, -e) for code, e in used if e < 0)
            product = "*".join(_power(code, e) for code, e in used)
            # a quotient hides the order of its terms; a product of powers shows it
            for text in (above + below if above else "", product):
                if _value(prefixes[self.prefix] + text) == self:
                    return prefixes[self.prefix] + text
        return f"0x{int(self):016x}"

    def __repr__(self) -> str:
        return f"Unit({str(self)!r})"

    @classmethod
    def _of(cls, prefix: int, terms: list[tuple[int, int]]) -> Self:
        value = prefix << 60
        for k, (code, exponent) in enumerate(terms):
            value |= (code << 4 | exponent & 0xF) << (50 - 10 * k)
        return cls(value)


def _power(code: int, exponent: int) -> str:
    return _SYMBOLS[code] if exponent == 1 else f"{_SYMBOLS[code]}^{exponent}"


def _prefixed(text: str) -> tuple[int, int]:
    """Prefix and unit code of one symbol. A plain unit wins over a prefixed one: "cd", "m"."""
    for prefix, code in _PREFIXES.items():
        if text.startswith(prefix) and text[len(prefix) :] in _UNITS:
            return code, _UNITS[text[len(prefix) :]]
    raise ValueError(f"{text!r} is not a unit of OpenIGTLink")


def _value(text: str) -> int | None:
    try:
        return _parse(text)
    except ValueError:
        return None


def _parse(text: str) -> int:
    cleaned = text.replace(" ", "")
    for given, plain in (_ALIASES | _OHMS).items():
        cleaned = cleaned.replace(given, plain)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", cleaned):
        return int(cleaned, 16)
    if cleaned in ("", "1"):
        return 0
    prefix = 0
    terms: list[tuple[int, int]] = []
    for k, part in enumerate(re.split(r"(?=[*/·.])", cleaned)):
        sign = -1 if part[:1] == "/" else 1
        part = part.lstrip("*/·.")
        if part == "1" and k == 0:
            continue
        match = _TERM.fullmatch(part)
        if match is None:
            raise ValueError(f"{text!r}: {part!r} is not a unit with an exponent")
        this_prefix, code = _prefixed(match[1])
        if this_prefix and terms:
            raise ValueError(f"{text!r}: only the first unit can have a prefix")
        prefix = prefix or this_prefix
        exponent = sign * int(match[2] or 1)
        if not -7 <= exponent <= 7 or exponent == 0:
            raise ValueError(f"{text!r}: exponents are -7..-1 and 1..7")
        terms.append((code, exponent))
    if not 0 < len(terms) <= 6:
        raise ValueError(f"{text!r} has {len(terms)} units, 1 to 6 fit")
    return int(Unit._of(prefix, terms))
