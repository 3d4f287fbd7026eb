"""Running and refining networks, away from the user interface: what one thread does and keeps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from scribblesegment.exceptions import NetworkError

from .RefinementTalk import RefinementTalk
from .RequiredPackages import RequiredPackages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribblesegment import Volume


@dataclass(frozen=True)
class RefinementOptions:
    """What the user set under *Advanced*.

    Attributes:
        layers: How many of the last layers are changed.
        iterations: Most iterations.
        growing: Whether strokes grow into similar voxels beside them.
        holding: Whether the network is held to what it said where nothing was painted.
        threshold: Largest difference of neighbouring intensities that they grow across; None finds one.
        newLabels: Whether segments of unknown names become new labels, or are ignored.
    """

    layers: int = 6
    iterations: int = 130
    growing: bool = True
    holding: bool = True
    threshold: float | None = None
    newLabels: bool = True


@dataclass(frozen=True, eq=False)
class WorkRequest:
    """What to run on what.

    Attributes:
        source: Of the network.
        volume: The image.
        token: Equal for equal content of the image only.
        axis: Axis of the slices that a 2D network sees.
        index: The one slice to work on; None for the volume.
        device: "auto" or a torch device name.
        options: The user's settings.
    """

    source: str
    volume: Volume
    token: Hashable
    axis: int
    index: int | None
    device: str
    options: RefinementOptions

    @property
    def key(self) -> Hashable:
        """What must be the same for what was computed to serve again; the last labels do not change anything else."""
        return (
            self.source,
            self.token,
            self.axis,
            self.index,
            self.device,
            self.options.layers,
            self.options.iterations,
            self.options.holding,
        )


@dataclass(frozen=True, eq=False)
class NetworkRun:
    """What a network says by itself.

    Attributes:
        labels: int16 of the shape of the image, or of the slice.
        names: Of the labels, the background first.
        network: Its name.
        licence: Of its parameters; empty where unknown.
    """

    labels: NDArray[np.int16]
    names: tuple[str, ...]
    network: str
    licence: str


class Backend(Protocol):
    """What loads and refines networks: the package, or a stand-in in tests."""

    @property
    def missing(self) -> Sequence[Any]:
        """Packages that must be installed before anything runs."""

    def load(self, source: str, confirm: Callable[[str], bool]) -> Any:
        """Load a network; asks before code of others runs."""

    def correction(self, network: Any, request: WorkRequest) -> Any:
        """Bring a network and an image together."""

    def refine(
        self,
        correction: Any,
        painted: NDArray[np.int16],
        newNames: Mapping[int, str],
        request: WorkRequest,
        talk: RefinementTalk,
    ) -> Any:
        """Refine; returns a `CorrectionResult`."""


class RefinementWork:
    """Keeps the newest network and what it computed for the newest image. Called on one thread at a time."""

    def __init__(self, backend: Backend | None = None) -> None:
        """Use the package, or what stands in for it."""
        self._backend = backend or PackageBackend()
        self._network: tuple[str, Any] | None = None
        self._correction: tuple[Hashable, Any] | None = None

    @property
    def missing(self) -> Sequence[Any]:
        """Packages that must be installed before anything runs."""
        return self._backend.missing

    def another(self) -> RefinementWork:
        """Make one with the same backend that keeps nothing; for when a thread still uses this one."""
        return RefinementWork(self._backend)

    def forgetImage(self) -> None:
        """Let go of what was computed for an image; the network stays, for the next patient."""
        self._correction = None

    def segment(self, request: WorkRequest, talk: RefinementTalk) -> NetworkRun:
        """Run a network as it is.

        Raises:
            ScribbleSegmentError: It cannot be loaded or run; the message says what to do.
        """
        network = self._loaded(request, talk)
        correction = self._prepared(network, request)
        labels = correction.segment(progress=talk.progress, cancelled=talk.cancelled)
        return NetworkRun(labels, tuple(network.labels), network.name, getattr(network, "licence", ""))

    def refine(
        self,
        request: WorkRequest,
        painted: NDArray[np.int16],
        names: tuple[str, ...],
        newNames: Mapping[int, str],
        talk: RefinementTalk,
    ) -> Any:
        """Refine a network's result.

        Args:
            request: The network, the image, and the settings.
            painted: int16 of the shape of the image, or of the slice; -1 where nothing is painted.
            names: Of the labels that `painted` is about.
            newNames: Of the new labels in it, by value.
            talk: Gets the progress.

        Raises:
            ScribbleSegmentError: It cannot be done; the message says what to do.
        """
        network = self._loaded(request, talk)
        if tuple(network.labels) != names:
            raise NetworkError(
                f"The result was made by a network with the labels {', '.join(names)}; {network.name} has "
                f"{', '.join(network.labels)}. Press 'Run network' first."
            )
        correction = self._prepared(network, request)
        return self._backend.refine(correction, painted, newNames, request, talk)

    def _loaded(self, request: WorkRequest, talk: RefinementTalk) -> Any:
        if self._network is None or self._network[0] != request.source:
            self._network = self._correction = None  # the old one need not stay in memory meanwhile
            self._network = (request.source, self._backend.load(request.source, talk.confirm))
        return self._network[1]

    def _prepared(self, network: Any, request: WorkRequest) -> Any:
        if self._correction is None or self._correction[0] != request.key:
            self._correction = None
            self._correction = (request.key, self._backend.correction(network, request))
        return self._correction[1]


class PackageBackend:
    """The package's own; torch is imported on the thread that needs it."""

    @property
    def missing(self) -> Sequence[Any]:
        """Packages that must be installed before anything runs."""
        return RequiredPackages().missing

    def load(self, source: str, confirm: Callable[[str], bool]) -> Any:
        """Load a network; asks before code of others runs."""
        from scribblesegment.refinement.networks import load_network

        return load_network(source, confirm=confirm)

    def correction(self, network: Any, request: WorkRequest) -> Any:
        """Bring a network and an image together."""
        from scribblesegment.refinement.correction import Correction
        from scribblesegment.refinement.lagrangian import RefinementConfig

        options = request.options
        config = RefinementConfig(layers=options.layers, iterations=options.iterations)
        if not options.holding:
            config = replace(config, anchor=0.0)
        return Correction(
            network, request.volume, axis=request.axis, index=request.index, device=request.device, config=config
        )

    def refine(
        self,
        correction: Any,
        painted: NDArray[np.int16],
        newNames: Mapping[int, str],
        request: WorkRequest,
        talk: RefinementTalk,
    ) -> Any:
        """Refine; returns a `CorrectionResult`."""
        from scribblesegment.label_scribbles import LabelScribbles
        from scribblesegment.refinement.region_growing import GrowthConfig

        grow = GrowthConfig(threshold=request.options.threshold) if request.options.growing else None
        return correction.refine(
            LabelScribbles.from_labels(painted),
            names=newNames,
            grow=grow,
            on_iteration=talk.iteration,
            progress=talk.progress,
            cancelled=talk.cancelled,
        )
