"""Date and place as the numbers that the iNaturalist model was trained on."""

from __future__ import annotations

import datetime
import math

import pytest
import torch

from internimage.data.metadata import metadata_vectors, spatial_vector, temporal_vector

HALF = math.sqrt(3) / 2


@pytest.mark.parametrize(
    ("date", "want"),
    [
        ("2018-01-15", (0.5, HALF, 0, 0)),
        ("2018-03-31", (1, 0, 0, 0)),
        ("2018-6-1", (0, -1, 0, 0)),
        ("2018-12-24 18:30:00+00:00", (0, 1, 0, 0)),
        ("2018-12-24T18:30", (0, 1, 0, 0)),
        (datetime.date(2018, 2, 1), (HALF, 0.5, 0, 0)),
        (datetime.datetime(2018, 2, 1, 12), (HALF, 0.5, 0, 0)),
        (None, (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
    ],
    ids=str,
)
def test_a_date_is_its_month_on_a_circle(date, want):
    got = temporal_vector(date)
    assert got.dtype == torch.float32 and got.tolist() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("date", ["yesterday", "2018-13-01", "2018-00-01", "2018-01-32", "01/02/2018", "2018-01", 2018])
def test_what_is_no_date_is_named(date):
    with pytest.raises(ValueError, match="date is .*expected yyyy-mm-dd"):
        temporal_vector(date)


@pytest.mark.parametrize(
    ("place", "want"),
    [
        ((90, 180), (0, 0, 1)),
        ((-90, -180), (0, 0, -1)),
        ((1e-9, 90), (0, 1, 0)),
        ((30, 60), (HALF * 0.5, HALF * HALF, 0.5)),
        ((-30.0, -120.0), (-HALF * 0.5, -HALF * HALF, -0.5)),
        ((None, 3), (0, 0, 0)),
        ((3, None), (0, 0, 0)),
        ((0, 3), (0, 0, 0)),
        ((3, 0.0), (0, 0, 0)),
    ],
    ids=str,
)
def test_a_place_is_a_point_of_the_unit_sphere(place, want):
    got = spatial_vector(*place)
    assert got.dtype == torch.float32 and got.tolist() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("place", [(91, 0), (0, 181), (math.nan, 3), (3, math.inf), ("48", "11"), (None, 200)], ids=str)
def test_what_is_no_place_is_named(place):
    with pytest.raises(ValueError, match="(latitude|longitude) is .*expected degrees"):
        spatial_vector(*place)


def test_one_for_all_pictures_or_one_a_picture():
    temporal, spatial = metadata_vectors(2, "2018-03-31", (30, 60))
    assert torch.equal(temporal[0], temporal[1]) and torch.equal(spatial[0], spatial[1])
    temporal, spatial = metadata_vectors(2, ["2018-03-31", None], [None, (30, 60)])
    assert temporal[1].any() == spatial[0].any() == torch.tensor(False)
    assert torch.equal(spatial[1], spatial_vector(30, 60)) and torch.equal(temporal[0], temporal_vector("2018-03-31"))
    assert [v.shape for v in metadata_vectors(0, None, None)] == [(0, 4), (0, 3)]
    assert not any(v.any() for v in metadata_vectors(3, None, None))


@pytest.mark.parametrize(
    ("date", "location", "words"),
    [
        (["2018-01-01"], None, "date has 1 entries, expected one for each of the 2 pictures"),
        (None, [(1, 2)], "location has 1 entries"),
        (20180101, None, "date is 20180101, expected yyyy-mm-dd"),
        (None, "48,11", "location is '48,11', expected .latitude, longitude."),
        (None, [(1, 2), 3], "location is 3"),
        (None, [(1, 2), (1, 2, 3)], "expected .latitude, longitude."),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(date, location, words):
    with pytest.raises(ValueError, match=words):
        metadata_vectors(2, date, location)
