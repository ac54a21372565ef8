"""Data as people have them: masks, holes, tables, units, images, complex and correlated values.

The property is one throughout: however the numbers arrive, a fit sees exactly the points that count, or the
data are refused with the place and the way out.
"""

from __future__ import annotations

import datetime
import pickle
import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from park.errors import InvalidRequest
from park.fit.problem.assembly import Assembly
from park.fit.problem.data import Data
from park.fit.problem.model import Model
from tests.support.fits import fit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries, while they are loaded
    import astropy.units
    import pandas as pd
    import pint
    import xarray as xr
    from astropy.table import MaskedColumn
    from uncertainties import ufloat, unumpy

TIME = np.linspace(0, 3, 8)
LEVEL = 1.5 * TIME + 0.25 + np.array([0.1, -0.2, 0.05, 0.3, -0.1, 0.0, -0.3, 0.15])


def ramp(t: Any, slope: float, offset: float) -> Any:
    return slope * t + offset


def blob(at: Any, height: float, across: float, up: float) -> Any:
    return height * np.exp(-((at[0] - across) ** 2) - (at[1] - up) ** 2)


def assembly(data: Any, function: Any = ramp, **values: Any) -> Assembly:
    return Assembly((Model(function, **(values or {"slope": (-9, 9), "offset": (-9, 9)})), data))


def same(a: Assembly, b: Assembly) -> None:
    """Both see the same points."""
    assert a.objective.points == b.objective.points
    for x in (a.start, a.start + 0.37):
        assert a.residuals(x).tolist() == b.residuals(x).tolist()


masks = arrays.arrays(bool, TIME.size)
garbage = st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 0.0, -3.0])


class TestMasks:
    @given(masks, masks, masks, garbage)
    @settings(max_examples=60)
    def test_masked_points_are_left_out(self, in_x: Any, in_y: Any, in_dy: Any, bad: float) -> None:
        keep = ~(in_x | in_y | in_dy)
        columns = [
            np.ma.array(np.where(mask, bad, column), mask=mask)
            for mask, column in ((in_x, TIME), (in_y, LEVEL), (in_dy, 0.1 + TIME / 20))
        ]
        if not keep.any():
            with pytest.raises(InvalidRequest, match="no point is left: all 8"):
                Data(*columns)
            return
        expected = Data(TIME[keep], LEVEL[keep], (0.1 + TIME / 20)[keep])
        data = Data(*columns)
        assert (len(data), data.left_out) == (keep.sum(), (~keep).sum())
        same(assembly(data), assembly(expected))

    @given(masks, st.sampled_from(["tuple", "rows", "columns"]))
    @settings(max_examples=40)
    def test_of_several_coordinates(self, mask: Any, how: str) -> None:
        keep = ~mask
        if not keep.any():
            return
        other = np.sqrt(TIME)
        masked = np.ma.array(other, mask=mask)
        x = {"tuple": (TIME, masked), "rows": np.ma.stack([np.ma.asarray(TIME), masked])}
        x["columns"] = x["rows"].T
        expected = assembly(((TIME[keep], other[keep]), LEVEL[keep]), lambda t, s, a: a * t * s, a=(0, 1))
        if how == "tuple":
            same(assembly((x[how], LEVEL), lambda t, s, a: a * t * s, a=(0, 1)), expected)
        together = (lambda q, a: a * q[:, 0] * q[:, 1]) if how == "columns" else lambda q, a: a * q[0] * q[1]
        same(assembly((x[how], LEVEL), together, a=(0, 1)), expected)

    @given(arrays.arrays(bool, (4, 5)), garbage)
    @settings(max_examples=40)
    def test_a_model_of_an_image_gets_all_pixels(self, mask: Any, bad: float) -> None:
        if mask.all():
            return
        across, up = np.meshgrid(np.arange(5.0), np.arange(4.0))
        counts = blob((across, up), 8, 2, 1) + across / 10
        shapes = []

        def smeared(at: Any, height: float, across: float, up: float) -> Any:
            shapes.append(at.shape)
            image = blob(at, height, across, up)
            return (image + np.roll(image, 1, axis=0) + np.roll(image, 1, axis=1)) / 3

        values: dict[str, Any] = {"height": (0, 20), "across": (0, 4), "up": (0, 3)}
        data = Data((across, up), np.ma.array(np.where(mask, bad, counts), mask=mask), 0.5)
        a, whole = assembly(data, smeared, **values), assembly(((across, up), counts, 0.5), smeared, **values)
        assert a.residuals(a.start).tolist() == whole.residuals(a.start)[~mask.ravel()].tolist()
        assert set(shapes) == {(2, 4, 5)}
        assert data.y.shape == data.dy.shape == (4, 5)
        assert len(data) == (~mask).sum()
        if mask.any():
            assert data.mask.tolist() == mask.tolist()
            assert np.isnan(data.y[mask]).all()

    def test_a_saturated_channel_is_not_fitted(self) -> None:
        y = LEVEL.copy()
        y[2:4] = 900
        result = fit(assembly((TIME, np.ma.masked_greater(y, 100), 0.1)), "lm")
        keep = y < 100
        expected = np.polyfit(TIME[keep], LEVEL[keep], 1)
        assert result.x == pytest.approx(expected, abs=1e-6)
        assert result.dof == keep.sum() - 2
        assert "2 of 8 points of part1 are left out" in result.message

    def test_a_mask_that_does_not_tell_the_points(self) -> None:
        with pytest.raises(InvalidRequest, match=r"does not say which points of y.*mask y"):
            Data(np.ma.masked_equal(np.arange(5.0), 2), np.ones((3, 5)))
        with pytest.raises(InvalidRequest, match="points are rows or columns"):
            Data(np.eye(3), np.ma.masked_equal([1.0, 2, 3], 2))

    def test_of_other_libraries(self) -> None:
        for y in (MaskedColumn(LEVEL, mask=LEVEL > 3), [*LEVEL[:7], np.ma.masked]):
            assert Data(TIME, y).left_out > 0

    @pytest.mark.parametrize("method", ["lm", "amoeba"])
    def test_a_model_may_return_extended_precision(self, method: str) -> None:
        plain, extended = (
            fit(assembly((TIME, LEVEL, 0.1), lambda t, a, d=d: (a * t).astype(d), a=(0, 10)), method)
            for d in (np.float64, np.longdouble)
        )
        assert extended.converged
        assert extended.x == pytest.approx(plain.x, rel=1e-6)
        assert extended.dx == pytest.approx(plain.dx, rel=1e-6)

    def test_a_model_that_returns_masked_values_has_none_there(self) -> None:
        a = assembly((TIME + 0.1, LEVEL), lambda t, a: np.ma.log(t - a), a=(0.0, 2.0))
        assert np.isnan(a.residuals([1.0])).tolist() == (TIME + 0.1 <= 1).tolist()
        with pytest.raises(InvalidRequest, match="no finite value at index 0"):
            assembly((TIME, LEVEL), lambda t, a: a * np.ma.log(t), a=(0, 1))


class TestHoles:
    @given(st.sampled_from(["x", "y", "dy"]), st.integers(0, 7), st.sampled_from([np.nan, np.inf, -np.inf]))
    @settings(max_examples=30)
    def test_named_or_dropped(self, where: str, index: int, bad: float) -> None:
        columns = {"x": TIME.copy(), "y": LEVEL.copy(), "dy": np.full(8, 0.2)}
        columns[where][index] = bad
        with pytest.raises(
            InvalidRequest, match=rf"data 'A': {where} must be finite; it is .* at index {index}"
        ):
            Data(**columns, name="A")
        keep = np.arange(8) != index
        expected = Data(TIME[keep], LEVEL[keep], 0.2)
        same(assembly(Data(**columns, nan="drop")), assembly(expected))

    def test_of_an_image_are_named_by_row_and_column(self) -> None:
        image = np.ones((3, 4))
        image[1, 2] = np.nan
        with pytest.raises(InvalidRequest, match=r"y must be finite; it is nan at index \(1, 2\)"):
            Data(np.arange(4.0), image)
        assert len(Data(np.arange(4.0), image, nan="drop")) == 11

    def test_of_a_coordinate_are_named_by_it(self) -> None:
        t = TIME.copy()
        t[3] = np.inf
        with pytest.raises(InvalidRequest, match=r"x\[1\] must be finite; it is inf at index 3"):
            Data((TIME, t), LEVEL)

    def test_the_part_is_named(self) -> None:
        with pytest.raises(InvalidRequest, match="part1, data: y must be finite; it is nan at index 0"):
            assembly((TIME, np.where(TIME == 0, np.nan, LEVEL)))

    @pytest.mark.parametrize("missing", [None, pd.NA, float("nan"), Decimal("nan")])
    def test_missing_objects(self, missing: Any) -> None:
        y = np.array([*LEVEL[:7], missing], dtype=object)
        with pytest.raises(InvalidRequest, match=r"y must be finite; it is .* at index 7"):
            Data(TIME, y)
        same(assembly(Data(TIME, y, nan="drop")), assembly((TIME[:7], LEVEL[:7])))

    @pytest.mark.parametrize("bad", [0.0, -0.5])
    def test_an_error_that_is_none_says_what_to_do(self, bad: float) -> None:
        dy = np.full(8, 0.2)
        dy[5] = bad
        with pytest.raises(
            InvalidRequest, match=rf"dy must be positive; it is {bad:g} at index 5: give the point"
        ):
            Data(TIME, LEVEL, dy)
        assert len(Data(TIME, LEVEL, np.ma.masked_less_equal(dy, 0))) == 7


class TestNumbers:
    @given(
        st.sampled_from([">f8", "<f4", ">f4", "f2", "longdouble", "i1", ">i4", "u8", "O", "decimal", "list"]),
        st.permutations(range(8)),
    )
    @settings(max_examples=40)
    def test_of_every_type_in_every_order(self, kind: str, order: Any) -> None:
        values = np.array([3, 1, 4, 1, 5, 9, 2, 6], dtype=float)
        converted: Any = {
            "decimal": lambda: np.array([Decimal(int(v)) for v in values]),
            "O": lambda: np.array([Fraction(int(v)) for v in values], dtype=object),
            "list": lambda: [int(v) if v > 2 else float(v) for v in values],
        }.get(kind, lambda: values.astype(kind))()
        y = converted if isinstance(converted, list) else converted[list(order)]
        x = TIME if isinstance(converted, list) else TIME[list(order)]
        a, b = assembly((x, y, 0.5)), assembly((TIME, values, 0.5))
        assert a.nllf([1.0, 0.5]) == pytest.approx(b.nllf([1.0, 0.5]), rel=1e-14)

    def test_repeated_and_unsorted_points_fit_as_sorted_ones(self) -> None:
        order = np.random.default_rng(3).permutation(16)
        x, y = np.tile(TIME, 2), np.concatenate([LEVEL, LEVEL[::-1] / 2])
        a, b = fit(assembly((x, y, 0.1)), "lm"), fit(assembly((x[order], y[order], 0.1)), "lm")
        assert a.x == pytest.approx(b.x, abs=1e-7)
        assert a.dx == pytest.approx(b.dx, rel=1e-6)

    def test_true_and_false_are_one_and_zero(self) -> None:
        assert Data(TIME, LEVEL > 2).y.tolist() == (LEVEL > 2).astype(float).tolist()
        with pytest.raises(InvalidRequest, match="dy is an array of True and False"):
            Data(TIME, LEVEL, LEVEL > 2)

    @pytest.mark.parametrize(
        "x",
        [
            np.arange(8) + 2**60,
            np.arange(8).astype("u8") + np.uint64(2**63),
            [10**30 + n for n in range(8)],
            [Fraction(10**20) + Fraction(n, 7) for n in range(8)],
            np.longdouble(2_460_000.5) + np.arange(8) * np.longdouble(1e-13),
        ],
    )
    def test_digits_that_float64_does_not_have_are_not_lost_in_silence(self, x: Any) -> None:
        with pytest.raises(
            InvalidRequest, match=r"x loses digits as float64 numbers.*subtract a common offset"
        ):
            Data(x, LEVEL)

    def test_large_numbers_that_differ_enough_are_taken(self) -> None:
        stamps = 1_700_000_000_000_000_001 + 1_000_000_000 * np.arange(8)  # seconds apart, in nanoseconds
        assert Data(stamps, LEVEL).x.tolist() == stamps.astype(float).tolist()

    @pytest.mark.parametrize(
        ("y", "says"),
        [
            (list("abcdefgh"), "y has dtype object, and 'a' at index 0 is text"),
            ([1, 2, "3", 4, 5, 6, 7, 8], "and '3' at index 2 is text"),
            (np.array(["1"] * 8), "y has dtype <U1, and '1' at index 0 is text"),
            (np.array([b"1"] * 8), "is text"),
            (pd.Series(list("abcdefgh")), "text"),
            ([object()] * 8, "y has dtype object, and .* at index 0 is not a number"),
            (np.array([np.ones(2)] * 7 + [1], dtype=object), "at index 0 is not a number"),
            (np.zeros(8, dtype=[("q", float), ("i", float)]), r"y has several fields \(q, i\)"),
            ((v for v in LEVEL), "y is a generator, not an array of numbers: give a list"),
            ({"a": 1}, "y is a dict"),
            (None, "y is a NoneType"),
            ([10**400] * 8, "y is too large for a float64 number at index 0"),
        ],
    )
    def test_what_is_no_number_is_refused(self, y: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Data(TIME, y)

    @pytest.mark.parametrize(
        ("y", "dy", "says"),
        [
            (1e-200, None, "y is of the size 5e-200"),
            (1e200, None, "y is of the size"),
            (1e-160, 1e-160, "dy is of the size 1e-160"),
            (1.0, 1e-160, "dy is of the size 1e-160"),
            (1.0, 1e160, "dy is of the size 1e.160"),
        ],
    )
    def test_a_unit_in_which_squares_vanish_is_refused(self, y: float, dy: float | None, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Data(TIME, y * LEVEL, dy)
        huge = np.where(TIME.mean() < TIME, 1.0, 1e200)  # takes points out of a fit
        assert len(Data(TIME, 0 * LEVEL, huge)) == LEVEL.size

    @pytest.mark.parametrize(
        ("x", "says"),
        [
            (np.arange(8).astype("M8[D]"), r"x has dtype datetime64\[D\].*\(x - x\[0\]\) / np.timedelta64"),
            (np.arange(8).astype("m8[s]"), r"x has dtype timedelta64.*x / np.timedelta64"),
            (pd.date_range("2021-03-01", periods=8), "datetime64"),
            (pd.date_range("2021-03-01", periods=8, tz="UTC"), "dates"),
            ([datetime.date(2021, 3, d + 1) for d in range(8)], "dates"),
            ([datetime.timedelta(d) for d in range(8)], "dates"),
        ],
    )
    def test_dates_are_refused_with_the_way_to_numbers(self, x: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Data(x, LEVEL)

    @pytest.mark.parametrize(
        ("dy", "says"),
        [
            (np.ones((2, 8)), "a lower and an upper error"),
            ((np.ones(8), np.ones(8)), "a lower and an upper error"),
            ((0.1, 0.2), "a lower and an upper error"),
            (np.ones((8, 2)), "a lower and an upper error"),
            (np.ones(7), r"dy has shape \(7,\) and y has shape \(8,\)"),
            (np.ones((8, 1)), r"dy has shape \(8, 1\)"),
            (0.1 + 0.1j, "dy is complex and y is real"),
            (unumpy.uarray(np.ones(8), 0.1), "errors of their own"),
        ],
    )
    def test_errors_of_another_kind_are_refused(self, dy: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Data(TIME, LEVEL, dy)


class TestTables:
    def test_columns_of_one_table(self) -> None:
        table = pd.DataFrame({"t": TIME, "v": LEVEL, "e": 0.1})
        chosen = table[table.v > 1].sort_values("v")
        rows = LEVEL > 1
        a = assembly((chosen.t, chosen.v, chosen.e))
        assert a.nllf([1, 0]) == pytest.approx(assembly((TIME[rows], LEVEL[rows], 0.1)).nllf([1, 0]))

    def test_indexes_that_differ_are_not_paired_by_position(self) -> None:
        t, v = pd.Series(TIME), pd.Series(LEVEL)
        with pytest.raises(
            InvalidRequest, match=r"x and y have different indexes \(0 and 7 in row 0\).*align"
        ):
            Data(t, v[::-1])
        with pytest.raises(InvalidRequest, match="x has 8 rows and y has 5"):
            Data(t, v[3:])
        with pytest.raises(InvalidRequest, match="y and dy have different indexes"):
            Data(TIME, v, v[::-1])
        with pytest.raises(InvalidRequest, match=r"x\[0\] and x\[1\] have different indexes"):
            Data((t, t[::-1]), v)
        assert len(Data(t.to_numpy(), v[::-1])) == 8

    def test_missing_values_of_nullable_columns(self) -> None:
        v = pd.Series([*LEVEL[:7], None], dtype="Float64")
        same(assembly(Data(TIME, v, nan="drop")), assembly((TIME[:7], LEVEL[:7])))

    def test_columns_are_coordinates_by_name(self) -> None:
        table = pd.DataFrame({"t": TIME, "s": TIME**2})
        expected = assembly(((TIME, TIME**2), LEVEL), lambda t, s, a: t - a * s, a=(0, 1))
        same(assembly((table, LEVEL), lambda t, s, a: t - a * s, a=(0, 1)), expected)
        with pytest.raises(
            InvalidRequest, match=r"columns of x are s, t and the model takes t, s.*Data\(\(x1, x2\), y\)"
        ):
            assembly((table[["s", "t"]], LEVEL), lambda t, s, a: t - a * s, a=(0, 1))

    def test_arrays_with_named_axes(self) -> None:
        v = xr.DataArray(LEVEL, dims="t", coords={"t": TIME})
        same(assembly((v.t, v)), assembly((TIME, LEVEL)))
        with pytest.raises(InvalidRequest, match="different coordinates along t"):
            Data(TIME, v, v.assign_coords(t=TIME + 1))
        with pytest.raises(InvalidRequest, match="dimensions a, b and dy has b, a"):
            Data(
                TIME,
                xr.DataArray(np.ones((8, 8)), dims=("a", "b")),
                xr.DataArray(np.ones((8, 8)), dims=("b", "a")),
            )
        with pytest.raises(InvalidRequest, match="give one of its variables"):
            Data(TIME, v.to_dataset(name="v"))

    def test_a_table_of_one_column_says_how_to_take_it(self) -> None:
        with pytest.raises(
            InvalidRequest, match=r"shape \(8,\) for y of shape \(8, 1\): give y as one column"
        ):
            assembly((TIME, pd.DataFrame({"v": LEVEL})))


UNITS = pint.UnitRegistry()


class TestUnits:
    @pytest.mark.parametrize(
        "y",
        [
            LEVEL * UNITS.volt,
            [v * UNITS.volt for v in LEVEL],
            np.array([v * UNITS.volt for v in LEVEL[:7]] + [1], dtype=object),
            LEVEL * astropy.units.volt,
            [v * astropy.units.volt for v in LEVEL],
            LEVEL * astropy.units.percent,
        ],
    )
    def test_a_unit_is_refused_by_name(self, y: Any) -> None:
        with pytest.raises(InvalidRequest, match=r"y carries the unit '(volt|V|%)'.*give the numbers alone"):
            Data(TIME, y)

    @pytest.mark.parametrize("y", [LEVEL * UNITS.dimensionless, LEVEL * astropy.units.dimensionless_unscaled])
    def test_pure_numbers_are_taken(self, y: Any) -> None:
        same(assembly((TIME, y)), assembly((TIME, LEVEL)))

    def test_a_model_with_units_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match=r"part1, model .*the unit volt"):
            assembly((TIME, LEVEL), lambda t, a: a * t * UNITS.volt, a=(0, 1))

    def test_values_with_errors_of_their_own(self) -> None:
        same(assembly((TIME, unumpy.uarray(LEVEL, 0.2))), assembly((TIME, LEVEL, 0.2)))
        with pytest.raises(InvalidRequest, match="leave dy out"):
            Data(TIME, unumpy.uarray(LEVEL, 0.2), 0.1)
        with pytest.raises(InvalidRequest, match="takes x as exact"):
            Data(unumpy.uarray(TIME, 0.2), LEVEL)
        common = ufloat(1, 0.1)
        with pytest.raises(InvalidRequest, match=r"correlated.*covariance_matrix"):
            Data(TIME, [common * v for v in LEVEL])


class TestCoordinates:
    T = np.linspace(1, 2, 5)
    S = np.linspace(-1, 1, 4)

    def surface(self, t: Any, s: Any, a: float, b: float) -> Any:
        return a * t + b * s**2

    @given(st.sampled_from(["grid", "sparse", "mixed", "list"]))
    def test_of_an_image_come_one_by_one(self, how: str) -> None:
        s, t = np.meshgrid(self.S, self.T)
        given = {
            "grid": (t, s),
            "sparse": (self.T[:, None], self.S[None, :]),
            "mixed": (self.T[:, None], self.S),
            "list": [t, s],
        }[how]
        y = 2 * t - s**2
        a = assembly((given, y), self.surface, a=(0, 9), b=(-9, 9))
        assert a.residuals([2, -1]) == pytest.approx(0, abs=1e-14)
        assert a.residuals([1, 1]) == pytest.approx((t + s**2 - y).ravel())

    def test_of_points_come_one_by_one_or_together(self) -> None:
        other = TIME**2
        a = assembly(((TIME, other), LEVEL), lambda t, s, a: a * t - s, a=(0, 1))
        b = assembly(((TIME, other), LEVEL), lambda q, a: a * q[0] - q[1], a=(0, 1))
        same(a, b)

    def test_a_scalar_coordinate_is_that_of_all_points(self) -> None:
        a = assembly(((TIME, 3.0), LEVEL), lambda t, s, a: a * t * s, a=(0, 1))
        same(a, assembly((TIME, LEVEL), lambda t, a: a * t * 3.0, a=(0, 1)))

    @pytest.mark.parametrize(
        ("x", "y", "says"),
        [
            (TIME, LEVEL, r"no value for s; .*t, s are coordinates: .* Data\(\(x1, x2\), y\)"),
            ((TIME, TIME, TIME), LEVEL, "no value for s.*x has 3"),
            (np.stack([TIME, TIME]), LEVEL, "each coordinate as an array of its own"),
            ((T, S), np.ones((5, 4)), r"shapes \(5,\), \(4,\) do not match y of shape \(5, 4\).*meshgrid"),
            ((T, T), np.ones((5, 5)), "each coordinate as an array of its own"),
        ],
    )
    def test_another_number_of_them_is_explained(self, x: Any, y: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            assembly((x, y), lambda t, s, a: a * t * s, a=(0, 1))

    def test_a_model_of_one_gets_a_word_for_several(self) -> None:
        with pytest.raises(InvalidRequest, match=r"shape \(2, 8\) for y.*one by one"):
            assembly(((TIME, TIME), LEVEL), lambda t, a: a * t, a=(0, 1))


complexes = arrays.arrays(float, 8, elements=st.floats(-5, 5))


class TestComplex:
    @given(complexes, complexes, st.floats(0.1, 3), st.floats(0.1, 3))
    @settings(max_examples=40)
    def test_real_and_imaginary_parts_count_with_their_errors(
        self, re: Any, im: Any, dre: float, dim: float
    ) -> None:
        a = assembly(
            Data(TIME, re + 1j * im, dre + 1j * dim),
            lambda t, a, b: a * np.exp(1j * b * t),
            a=(0, 4),
            b=(0, 2),
        )
        theory = 2 * np.exp(1j * TIME)
        expected = np.concatenate([(theory.real - re) / dre, (theory.imag - im) / dim])
        assert a.residuals([2, 1]) == pytest.approx(expected)
        assert a.objective.points == 16

    def test_one_error_is_that_of_both_parts(self) -> None:
        z = LEVEL + 1j * LEVEL[::-1]
        model = Model(lambda t, a: a * t + 0j, a=(0, 4))
        a, b = Assembly((model, (TIME, z, 0.3))), Assembly((model, (TIME, z, 0.3 + 0.3j)))
        same(a, b)

    @given(masks)
    @settings(max_examples=20)
    def test_masks_and_holes(self, mask: Any) -> None:
        if mask.all():
            return
        z = LEVEL + 2j * LEVEL
        holes = np.where(mask, complex(1, np.nan), z)
        expected = assembly((TIME[~mask], z[~mask], 0.1), lambda t, a: a * t + 1j, a=(0, 4))
        same(assembly(Data(TIME, holes, 0.1, nan="drop"), lambda t, a: a * t + 1j, a=(0, 4)), expected)
        masked = np.ma.array(holes, mask=mask)
        same(assembly(Data(TIME, masked, 0.1), lambda t, a: a * t + 1j, a=(0, 4)), expected)

    def test_a_fit_is_that_of_both_parts(self) -> None:
        z = (0.5 + 1j * LEVEL) * TIME
        model = Model(lambda t, a, b: (a + 1j * b) * t, a=(-5, 5), b=(-5, 5))
        result = fit(Assembly((model, (TIME, z, 0.1 + 0.2j))), "lm")
        power = TIME @ TIME
        assert result.x == pytest.approx([TIME @ z.real / power, TIME @ z.imag / power], abs=1e-6)
        assert result.dx == pytest.approx([0.1 / power**0.5, 0.2 / power**0.5], rel=1e-5)
        assert result.dof == 14

    def test_a_real_theory_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match=r"real numbers \(float64\) for a complex y"):
            assembly((TIME, LEVEL + 1j))

    def test_an_error_of_one_part_only_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="dy must be positive"):
            Data(TIME, LEVEL + 1j, np.full(8, 0.1 + 0j))


def correlated(seed: int, n: int = 8) -> Any:
    root = np.random.default_rng(seed).normal(size=(n, n))
    return root @ root.T / n + 0.05 * np.eye(n)


class TestCovariance:
    @given(st.integers(0, 999), masks)
    @settings(max_examples=40)
    def test_the_sum_of_squares_is_that_of_the_inverse(self, seed: int, mask: Any) -> None:
        if mask.all():
            return
        cov, keep = correlated(seed), ~mask
        a = assembly(Data(TIME, np.ma.array(LEVEL, mask=mask), cov=cov))
        r = (ramp(TIME, 1.1, 0.4) - LEVEL)[keep]
        assert 2 * a.nllf([1.1, 0.4]) == pytest.approx(r @ np.linalg.solve(cov[np.ix_(keep, keep)], r))

    @given(st.floats(1e-8, 1e8), st.floats(1e-8, 1e8))
    @settings(max_examples=20)
    def test_the_unit_of_y_does_not_matter(self, unit: float, other: float) -> None:
        scale = np.where(TIME < 1, unit, other)
        a = assembly(Data(TIME, LEVEL, cov=correlated(1)))
        factor = scale[:, None] * scale
        b = assembly(
            Data(TIME, LEVEL * scale, cov=correlated(1) * factor),
            lambda t, a, b: scale * (a * t + b),
            a=(0, 4),
            b=(0, 2),
        )
        assert b.nllf([1.0, 0.3]) == pytest.approx(a.nllf([1.0, 0.3]), rel=1e-9)

    def test_a_fit_is_generalised_least_squares(self) -> None:
        cov = correlated(7)
        design = np.stack([TIME, np.ones(8)], axis=1)
        weighted = np.linalg.solve(cov, design)
        expected = np.linalg.inv(design.T @ weighted)
        result = fit(assembly(Data(TIME, LEVEL, cov=cov)), "lm")
        assert result.x == pytest.approx(expected @ weighted.T @ LEVEL, abs=1e-6)
        assert result.cov == pytest.approx(expected, rel=1e-5)
        assert result.chisq == pytest.approx(2 * result.nllf / 6)

    def test_of_complex_values(self) -> None:
        z, cov = LEVEL + 1j * LEVEL[::-1] / 2, correlated(3, 16)
        a = assembly(Data(TIME, z, cov=cov), lambda t, a: a * t * (1 + 1j), a=(0, 4))
        r = TIME * (1 + 1j) - z
        r = np.concatenate([r.real, r.imag])
        assert 2 * a.nllf([1.0]) == pytest.approx(r @ np.linalg.solve(cov, r))
        assert a.parts[0].data.dy == pytest.approx(np.sqrt(np.diag(cov)[:8]) + 1j * np.sqrt(np.diag(cov)[8:]))

    def test_of_an_image(self) -> None:
        y, cov = LEVEL.reshape(2, 4), correlated(5)
        a = assembly(Data(TIME.reshape(2, 4), np.ma.masked_less(y, 0.4), cov=cov))
        keep = LEVEL >= 0.4
        r = (ramp(TIME, 1.0, 0.0) - LEVEL)[keep]
        assert 2 * a.nllf([1.0, 0.0]) == pytest.approx(r @ np.linalg.solve(cov[np.ix_(keep, keep)], r))

    @pytest.mark.parametrize(
        ("cov", "says"),
        [
            (np.triu(correlated(1)), "cov is not symmetric"),
            (np.ones((8, 8)), "not positive definite"),
            (np.eye(8) - 0.5, "not positive definite"),
            (np.diag([1, 1, 1, 0, 1, 1, 1, 1]), "variance of y at index 3 is 0"),
            (np.eye(7), r"cov has shape \(7, 7\); 8 values of y need \(8, 8\)"),
            (np.ones(8), "give dy"),
            (np.where(np.eye(8) > 0, np.nan, 1), r"cov must be finite; it is nan at index \(0, 0\)"),
            (np.eye(8) * 1j, "cov is complex"),
        ],
    )
    def test_is_refused(self, cov: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Data(TIME, LEVEL, cov=cov)

    def test_or_dy_but_not_both(self) -> None:
        with pytest.raises(InvalidRequest, match="leave dy out"):
            Data(TIME, LEVEL, 0.1, cov=np.eye(8))
        same(assembly(Data(TIME, LEVEL, cov=np.eye(8) / 4)), assembly((TIME, LEVEL, 0.5)))


class TestTravel:
    @pytest.mark.parametrize(
        "data",
        [
            Data((TIME, TIME), LEVEL, 0.1),
            Data(TIME, np.ma.masked_greater(LEVEL, 3), cov=correlated(2)),
            Data(TIME.reshape(2, 4), np.ma.masked_greater(LEVEL.reshape(2, 4), 3) + 1j, 0.1),
        ],
    )
    def test_data_arrive_as_they_were(self, data: Data) -> None:
        function = (
            (lambda t, s, a: a * t) if data.x.shape[0] == 2 and data.y.ndim == 1 else lambda t, a: a * t
        )
        if np.iscomplexobj(data.y):
            function = lambda t, a: a * t + 1j  # noqa: E731
        a, b = (assembly(d, function, a=(0, 4)) for d in (data, pickle.loads(pickle.dumps(data))))
        same(a, b)

    def test_a_model_cannot_move_the_points(self) -> None:
        def shifting(t: Any, a: float, table: Any) -> Any:
            t -= a
            table += 1
            return t * table

        data = Data(TIME, LEVEL, 0.1)
        for one in (data, pickle.loads(pickle.dumps(data))):
            changed = assembly(one, shifting, a=(0, 1), table=np.arange(8.0))
            plain = assembly(one, lambda t, a: (t - a) * (np.arange(8.0) + 1), a=(0, 1))
            for _ in range(3):
                same(changed, plain)

    def test_a_model_may_ask_for_arrays_that_it_can_write_to(self) -> None:
        writeable = []
        assembly((TIME, LEVEL), lambda t, a: writeable.append(t.flags.writeable) or a * t, a=(0, 1))
        assert writeable == [True]
