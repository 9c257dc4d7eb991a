"""Units: text to 64 bits and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from igtl.codec.units import _PREFIXES, _SYMBOLS


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("N*m", 0x02C4110000000000),
        ("mm/s^2", 0xB0443E0000000000),
        ("mm", 0xB044000000000000),
        ("m", 0x0044000000000000),
        ("kPa", 0x3304000000000000),
        ("cd", 0x01C4000000000000),  # candela, not centi-d
        ("Pa", 0x0304000000000000),  # not peta-a
        ("1/s", 0x00FC000000000000),
    ],
)
def test_known(text: str, code: int) -> None:
    assert igtl.Unit(text) == code
    assert igtl.Unit(str(igtl.Unit(code))) == code


def test_spellings() -> None:
    assert igtl.Unit("µV") == igtl.Unit("uV") == igtl.Unit("\N{GREEK SMALL LETTER MU}V")
    assert igtl.Unit("N·m") == igtl.Unit("N*m") == igtl.Unit("N m".replace(" ", "*"))
    assert igtl.Unit("Ω") == igtl.Unit("Ohm")
    assert igtl.Unit("s^-1") == igtl.Unit("1/s")
    assert igtl.Unit("m/s2") == igtl.Unit("m/s^2") == igtl.Unit("m*s^-2")
    assert str(igtl.Unit("m*s^-2")) == "m/s^2"
    assert repr(igtl.Unit("mm/s^2")) == "Unit('mm/s^2')"


@pytest.mark.parametrize(
    "text", ["kN*mm", "foo", "m^8", "m^0", "m*m*m*m*m*m*m", "m//s", "m^", "^2", "m*", "x/"]
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError):
        igtl.Unit(text)


def test_range() -> None:
    for wrong in (-1, 1 << 64):
        with pytest.raises(ValueError):
            igtl.Unit(wrong)


@given(st.integers(0, (1 << 64) - 1))
def test_every_number_survives_its_text(code: int) -> None:
    assert igtl.Unit(str(igtl.Unit(code))) == code


units = st.tuples(st.integers(1, len(_SYMBOLS) - 1), st.integers(-7, 7).filter(bool))


@given(st.sampled_from(sorted(_PREFIXES.values())), st.lists(units, min_size=1, max_size=6))
def test_every_unit_has_a_text(prefix: int, terms: list[tuple[int, int]]) -> None:
    unit = igtl.Unit._of(prefix, terms)
    assert igtl.Unit(str(unit)) == unit
    assert unit.terms[: len(terms)] == tuple(terms)
    assert unit.prefix == prefix


def test_sensor() -> None:
    s = igtl.Sensor([1, 2], "mm/s^2")
    assert str(s.unit) == "mm/s^2"
    s.unit = "N"  # type: ignore[assignment]
    assert igtl.unpack(s.pack()) == s
    assert "unit='N'" in repr(s)
    with pytest.raises(igtl.EncodeError, match=r"Sensor.values: 256 elements"):
        igtl.Sensor(range(256)).pack()


# ---- conversion -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "other", "expected"),
    [
        (1.5, "N", "mN", 1500), (2, "N*m", "J", 2), (1, "kN", "N", 1000), (3, "mm/s^2", "m/s^2", 3e-3),
        (1, "N", "g*m/s^2", 1000), (1, "kg", "g", 1000), (5, "W", "V*A", 5), (1, "Pa", "N/m^2", 1),
        (7, "T", "Wb/m^2", 7), (1, "V/A", "Ohm", 1), (4, "mrad/s", "rad/s", 4e-3), (1, "C", "A*s", 1),
        (2, "F", "C/V", 2), (2, "H", "Wb/A", 2), (1, "S", "A/V", 1), (1, "", "1", 1),
        (9, "Sv", "m^2/s^2", 9), (1, "lx", "lm/m^2", 1), (1, "hPa", "Pa", 100),
    ],
)  # fmt: skip
def test_conversion(value: float, unit: str, other: str, expected: float) -> None:
    np.testing.assert_allclose(igtl.Unit(unit).convert([value, 0], other), [expected, 0])
    np.testing.assert_allclose(igtl.Unit(other).convert(expected, igtl.Unit(unit)), value)


@pytest.mark.parametrize(
    ("unit", "other", "reason"),
    [
        ("N", "m", "same thing"), ("rad/s", "Hz", "same thing"), ("mm^2", "m^2", "two meanings"),
        ("0x8000000000000000", "m", "not a known unit"), ("N", "furlong", "not a unit of OpenIGTLink"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted(unit: str, other: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        igtl.Unit(unit).convert(1, other)


def test_pint_agrees() -> None:
    pint = pytest.importorskip("pint", reason="pint is not installed")
    registry = pint.UnitRegistry()
    for text in ("mm/s^2", "N*m", "kOhm", "mrad/s", "hPa", "uT", "Bq", "Gy", "lx", "mol/m^3", "cd"):
        unit = igtl.Unit(text)
        factor, base = unit._in_si()
        quantity = (1 * unit.to_pint(registry)).to_base_units()
        ours = registry.Quantity(factor, "*".join(f"{n}**{e}" for n, e in base.items()))
        assert quantity.to(ours.units).magnitude == pytest.approx(factor)
    sensor = igtl.Sensor([1, 2], "mN")
    assert (sensor.values * sensor.unit.to_pint(registry)).to("N").magnitude.tolist() == [
        1e-3,
        2e-3,
    ]
    assert (1 * igtl.Unit().to_pint(registry)).dimensionless
    with pytest.raises(ValueError, match="two meanings"):
        igtl.Unit("mm^2").to_pint(registry)
