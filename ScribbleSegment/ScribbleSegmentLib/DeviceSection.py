"""Section *Computing device* of the module's panel: where the network runs, and whether that works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slicer.i18n import tr as _

from scribblesegment.inference.devices import device_problem, resolve_device, torch_problem
from scribblesegment.inference.ridge_network import milliseconds_of_a_prediction
from scribblesegment.service.service import explain

from .Inference import BackgroundJob
from .NetworkChoices import deviceNames


@dataclass(frozen=True)
class DeviceReport:
    """Result of a check."""

    device: str  # that was checked; for "auto", the one that would be used
    hardware: str = ""  # what it is called, where it has a name
    problem: str | None = None  # why it cannot compute, in PyTorch's words
    unused: str | None = None  # why a graphics card is there and not used, in PyTorch's words
    # Of a prediction of the extension's own network without PyTorch, and with it; None where it cannot be used.
    milliseconds: tuple[float, float | None] = (0.0, None)


def checkDevice(name: str) -> DeviceReport:
    """Compute on a device. Imports PyTorch where it is installed, which takes seconds.

    Args:
        name: "auto" or a torch device name.
    """
    missing = torch_problem()
    if missing is not None:
        problem = None if name in ("auto", "cpu") else missing
        return DeviceReport("cpu", problem=problem, unused=missing, milliseconds=(milliseconds_of_a_prediction(), None))
    problem = None if name == "auto" else device_problem(name)
    if problem is not None:
        return DeviceReport(name, problem=problem)
    import torch

    device = resolve_device(name)
    unused = device_problem("cuda") if name == "auto" and device == "cpu" and torch.cuda.is_available() else None
    milliseconds = milliseconds_of_a_prediction(), milliseconds_of_a_prediction(device)
    return DeviceReport(device, _hardware(device), None, unused, milliseconds)


def _hardware(device: str) -> str:
    import torch

    return str(torch.cuda.get_device_name(device)) if device.startswith("cuda") else ""


class DeviceSection:
    """Lets the user choose a device, and checks it by computing on it."""

    def __init__(self, ui, onChosen: Callable[[str], None], check: Callable[[str], DeviceReport] = checkDevice) -> None:
        """Use the widgets of a form.

        Args:
            ui: Its widgets by name.
            onChosen: Told the device that the user chose.
            check: Computes on a device; called on another thread.
        """
        self._ui = ui
        self._onChosen = onChosen
        self._check = check
        self._job = BackgroundJob("ScribbleSegment device check")
        labels = {
            "auto": _("Automatic"),
            "cpu": _("Processor"),
            "cuda": _("NVIDIA graphics card (CUDA)"),
            "mps": _("Apple graphics (MPS)"),
        }
        for name in deviceNames():
            ui.deviceComboBox.addItem(labels[name], name)
        ui.deviceComboBox.connect("currentIndexChanged(int)", self._onIndexChanged)
        ui.checkDeviceButton.connect("clicked()", self.startCheck)

    def cleanup(self) -> None:
        """Leave nothing behind."""
        self._job.cancel()

    @property
    def checking(self) -> bool:
        """Whether a check is under way."""
        return self._job.running

    def showDevice(self, name: str) -> None:
        """Select a device."""
        combo = self._ui.deviceComboBox
        combo.blockSignals(True)
        combo.setCurrentIndex(combo.findData(name))
        combo.blockSignals(False)

    def startCheck(self) -> None:
        """Compute on the chosen device; the result appears as text."""
        name = self._ui.deviceComboBox.currentData
        self._ui.checkDeviceButton.enabled = False
        self._ui.deviceResultLabel.text = _("Checking; this takes a few seconds...")
        self._job.start(lambda task: self._check(name), self._onChecked)

    def _onChecked(self, report: DeviceReport | None, error: BaseException | None) -> None:
        self._ui.checkDeviceButton.enabled = True
        if report is None:
            self._ui.deviceResultLabel.text = str(explain(error)) if error is not None else ""
            return
        self._ui.deviceResultLabel.text = _reportInWords(report)

    def _onIndexChanged(self, index: int) -> None:
        self._ui.deviceResultLabel.text = ""
        self._onChosen(self._ui.deviceComboBox.currentData)


def _reportInWords(report: DeviceReport) -> str:
    if report.problem:
        return _("This device cannot run the network: {problem} Choose 'Automatic' or 'Processor'.").format(
            problem=report.problem
        )
    name = {"cpu": _("processor"), "mps": _("Apple graphics")}.get(report.device, report.hardware or report.device)
    without, withTorch = report.milliseconds
    if withTorch is None:
        text = _("Works: a prediction takes {ms} ms on the processor.").format(ms=round(without))
        return f"{text} {report.unused}"
    text = _(
        "Works: a prediction takes {ms} ms on the {device} with PyTorch, {times} times as fast as the {without} ms "
        "without."
    ).format(ms=round(withTorch), device=name, times=f"{without / withTorch:.1f}", without=round(without))
    if report.unused:
        text += " " + _("The graphics card is not used: {problem}").format(problem=report.unused)
    return text
