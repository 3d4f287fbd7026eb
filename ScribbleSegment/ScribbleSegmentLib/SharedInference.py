"""The one inference service that effect and panel share."""

from __future__ import annotations

import qt

from scribblesegment.inference import PredictorService

_service: PredictorService | None = None


def sharedInference() -> PredictorService:
    """Give the application's inference service, made on first use and ended when Slicer quits."""
    global _service
    if _service is None:
        _service = PredictorService()
        qt.QCoreApplication.instance().aboutToQuit.connect(closeSharedInference)
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
