from __future__ import annotations

import sys

import pytest

from scribblesegment.errors import MissingPackageError, NetworkError
from scribblesegment.refinement.adapters.base import require_confirmation, require_package


def test_a_confirmed_reason_passes() -> None:
    reasons: list[str] = []
    require_confirmation(lambda reason: reasons.append(reason) or True, "It runs code.")
    assert reasons == ["It runs code."]


@pytest.mark.parametrize("confirm", [None, lambda _: False])
def test_nothing_passes_unconfirmed_and_the_reason_is_told(confirm: object) -> None:
    with pytest.raises(NetworkError, match="It runs code"):
        require_confirmation(confirm, "It runs code.")  # type: ignore[arg-type]


def test_an_installed_package_is_imported() -> None:
    assert require_package("json", "json", "A test").dumps([1]) == "[1]"


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "not_there", None)
    with pytest.raises(MissingPackageError, match="A test needs the Python package not-there") as caught:
        require_package("not_there", "not-there", "A test")
    assert caught.value.package == "not-there"
