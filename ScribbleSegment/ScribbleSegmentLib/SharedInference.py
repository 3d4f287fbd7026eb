"""The one inference service that effect and panel share."""

from __future__ import annotations

import qt

from scribblesegment.exceptions import WeightsError
from scribblesegment.inference import PredictorService

from .ModelChoices import ModelChoices
from .Selection import RememberedSelection, Selection, deviceNames

_service: PredictorService | None = None
_endsWithApplication = False


def sharedInference() -> PredictorService:
    """Give the application's inference service, made on first use and ended when Slicer quits.

    It starts with the network and the device that the user chose last.
    """
    global _service, _endsWithApplication
    if not _endsWithApplication:
        qt.QCoreApplication.instance().aboutToQuit.connect(closeSharedInference)
        _endsWithApplication = True
    if _service is None:
        _service = PredictorService()
        selection = startingSelection()
        _service.choose(selection.model, selection.device)
    return _service


def replaceSharedInference(service: PredictorService) -> None:
    """Use another service from now on; for tests, which must not depend on what is installed."""
    global _service
    closeSharedInference()
    _service = service


def closeSharedInference() -> None:
    """End the service's thread and let go of its network."""
    global _service
    if _service is not None:
        _service.close()
        _service = None


def rememberedSelection() -> RememberedSelection:
    """Give access to the last choice in Slicer's settings."""
    settings = qt.QSettings()
    return RememberedSelection(settings.value, settings.setValue)


def startingSelection() -> Selection:
    """Give the last choice as far as it still exists, else the defaults."""
    models = ModelChoices()
    try:
        default = Selection(models.defaultName, "auto")
        known = [model.name for model in models.all()]
    except WeightsError:
        # Loading will say so in the place where it matters.
        return Selection("default", "auto")
    return rememberedSelection().load().restrictedTo(known, deviceNames()).completedBy(default)
