"""When and where a picture was taken, as the numbers that the iNaturalist model was trained on."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Date = str | datetime.date
Dates = Date | Sequence[Date | None]
Location = tuple[float, float]
Locations = Location | Sequence[Location | None]

_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ].*)?")
_BOUNDS = {"latitude": 90, "longitude": 180}


def temporal_vector(date: Date | None) -> Tensor:
    """The month of a date on a circle: sine and cosine of its twelfth, then two zeros (the hour, which goes unused).

    Args:
        date: as yyyy-mm-dd, a time after it is ignored; or a ``datetime.date``. None or "" is an unknown date.

    Returns:
        (4,), float32; zeros for an unknown date.

    Raises:
        ValueError: it is no such date.
    """
    if date is None or date == "":
        return torch.zeros(4)
    angle = 2 * math.pi * _month(date) / 12
    return torch.tensor([math.sin(angle), math.cos(angle), 0.0, 0.0])


def spatial_vector(latitude: float | None, longitude: float | None) -> Tensor:
    """A place as a point (x, y, z) of the unit sphere: z to the north pole, x to where equator and zero meridian meet.

    Args:
        latitude, longitude: in degrees, north and east positive. None is unknown.

    Returns:
        (3,), float32; zeros where a number is unknown, and where one is exactly 0: so the model was trained.

    Raises:
        ValueError: a number is outside -90 to 90, or -180 to 180.
    """
    for name, value in (("latitude", latitude), ("longitude", longitude)):
        bound = _BOUNDS[name]
        if value is not None and not (isinstance(value, Real) and -bound <= value <= bound):  # false for NaN
            raise ValueError(f"{name} is {value!r}, expected degrees from -{bound} to {bound}, or None where unknown")
    if not latitude or not longitude:
        return torch.zeros(3)
    north, east = math.radians(latitude), math.radians(longitude)
    return torch.tensor([math.cos(north) * math.cos(east), math.cos(north) * math.sin(east), math.sin(north)])


def _month(date: Date) -> int:
    if isinstance(date, datetime.date):
        return date.month
    found = _DATE.fullmatch(date.strip()) if isinstance(date, str) else None
    if found is None or not (1 <= int(found[2]) <= 12 and 1 <= int(found[3]) <= 31):
        raise ValueError(f"date is {date!r}, expected yyyy-mm-dd such as 2018-06-30")
    return int(found[2])


def metadata_vectors(pictures: int, date: Dates | None, location: Locations | None) -> tuple[Tensor, Tensor]:
    """Dates and places of so many pictures, as (pictures, 4) and (pictures, 3).

    Args:
        date: one for all pictures, or a list with one a picture; None is unknown.
        location: likewise, each as (latitude, longitude) in degrees.

    Raises:
        ValueError: a date or place means nothing, or there are more or fewer than pictures.
    """
    one_place = isinstance(location, Sequence) and len(location) == 2 and isinstance(location[0], Real)
    dates = _one_a_picture("date", date, pictures, date is None or isinstance(date, (str, datetime.date)))
    places = _one_a_picture("location", location, pictures, location is None or one_place)
    temporal = [temporal_vector(when) for when in dates]
    spatial = [spatial_vector(*_as_location(where)) for where in places]
    if not pictures:
        return torch.zeros(0, 4), torch.zeros(0, 3)
    return torch.stack(temporal), torch.stack(spatial)


def _one_a_picture(name: str, given: Any, pictures: int, one_for_all: bool) -> list[Any]:
    if one_for_all:
        return [given] * pictures
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        kind = {"date": "yyyy-mm-dd", "location": "(latitude, longitude)"}[name]
        raise ValueError(f"{name} is {given!r}, expected {kind}, None, or a list with one a picture")
    if len(given) != pictures:
        raise ValueError(f"{name} has {len(given)} entries, expected one for each of the {pictures} pictures")
    return list(given)


def _as_location(given: Any) -> tuple[float | None, float | None]:
    if given is None:
        return None, None
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise ValueError(f"location is {given!r}, expected (latitude, longitude) in degrees")
    return given[0], given[1]
