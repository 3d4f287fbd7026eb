"""Values of JSON files by others: checked for type, size and range before anything is made of them."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from scribblesegment.errors import FileFormatError, ScribbleSegmentError

_JSON_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}


def parse_json(data: bytes | str, where: str, error: type[ScribbleSegmentError] = FileFormatError) -> Any:
    """Return what a JSON text says; NaN and infinity, which JSON does not have, are refused like any other damage."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as cause:
        raise error(f"{where} is not valid JSON: {cause}. Get or export the file again.") from cause


class Fields:
    """The fields of one JSON object, taken one by one by type and range; messages name the object and the field.

    Args:
        values: the object, as `parse_json` gives it.
        where: what messages call it.
        error: raised for a missing field, another type, or a value out of range.
    """

    def __init__(self, values: Any, where: str, error: type[ScribbleSegmentError] = FileFormatError) -> None:
        self.where, self._error = where, error
        if not isinstance(values, dict):
            self._refuse(values, "", "an object with named values")
        self._values: dict[str, Any] = values

    def text(self, key: str, longest: int = 200) -> str:
        """Return a text of at most `longest` characters."""
        value = self._take(key)
        if not isinstance(value, str) or len(value) > longest:
            self._refuse(value, key, f"a text of at most {longest} characters")
        return value

    def integer(self, key: str, low: int, high: int, *, optional: bool = False) -> int | None:
        """Return a whole number from `low` to `high`, or None where `optional` and null."""
        value = self._take(key)
        if optional and value is None:
            return None
        return self._integer(value, key, low, high)

    def integers(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """Return `count` whole numbers from `low` to `high`."""
        return tuple(self._integer(value, key, low, high) for value in self._list(key, count))

    def numbers(self, key: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """Return `count` numbers from `low` to `high`."""
        values = self._list(key, count)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                self._refuse(value, key, f"a number from {low:g} to {high:g}")
        return tuple(float(value) for value in values)

    def items(self, key: str, most: int) -> list[Any]:
        """Return a list of at most `most` things of any kind."""
        value = self._take(key)
        if not isinstance(value, list):
            self._refuse(value, key, "a list")
        if len(value) > most:
            raise self._error(f"{self.where} has {len(value)} {key}; at most {most} are read.")
        return value

    def _take(self, key: str) -> Any:
        if key not in self._values:
            raise self._error(f"{self.where} lacks {key!r}. Get or export the file again.")
        return self._values[key]

    def _list(self, key: str, count: int) -> list[Any]:
        value = self._take(key)
        if not isinstance(value, list) or len(value) != count:
            self._refuse(value, key, f"a list of {count} numbers")
        return value

    def _integer(self, value: Any, key: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._refuse(value, key, f"a whole number from {low} to {high}")
        return int(value)

    def _refuse(self, value: Any, key: str, expected: str) -> NoReturn:
        found = _JSON_TYPES.get(type(value)) or f"{value!r:.40}"
        field = f"{self.where}, {key!r}," if key else self.where
        raise self._error(f"{field} is {found}, expected {expected}. Get or export the file again.")
