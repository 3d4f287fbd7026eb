"""Time and weigh what users wait for: `python scripts/benchmark.py predict` and other sub-commands.

predict       a prediction on a 512 x 512 slice, against the plain float32 forward pass of its network
effect        from the end of a stroke to the changed segment, on Slicer's own MRML (needs slicer-core)
follow        strokes that interrupt a propagation, and others, in turn; and memory (needs slicer-core)
propagation   slices a second through a volume, from eight accepted slices
refinement    an iteration and a whole refinement of a slice, in time and memory
memory        most memory of `scribblesegment segment` on a large volume (Linux and macOS)
context       predictions on a 512 x 512 slice with context sets of several sizes (Linux and macOS)
published     the authors' networks (untrained), against plain implementations of them
simulation    prompt sets that the simulated user draws a second

Where two things are compared they are timed in turn, so that other load on the machine touches both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

# What needs PyTorch or Slicer is imported where it is used: a new process is charged with the peak of the one that
# starts it, so that this one must stay small.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB, macOS in bytes
_MB = 1e6
_MEMORY_LIMIT_MB = 500  # above the volume itself
_SIMULATION_SIDE, _SIMULATION_GOAL, _SIMULATION_CASES = 128, 150, 200


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark; returns 0, 1 if a limit was passed, or 2 after an error."""
    from scribblesegment.errors import ScribbleSegmentError

    arguments = _parser().parse_args(argv)
    try:
        if getattr(arguments, "threads", None):
            import torch

            torch.set_num_threads(arguments.threads)
        return int(arguments.run(arguments) or 0)
    except (ScribbleSegmentError, ImportError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def predict(arguments: argparse.Namespace) -> None:
    """Time two networks: the embedded one, and the paper's, untrained (192 features)."""
    import torch

    from scribblesegment import Network, Predictor, Prompts, load_predictor
    from scribblesegment.models.encoding import CHANNELS
    from scribblesegment.models.unet import ScribbleUNet

    side = arguments.side
    image = np.random.default_rng(0).normal(40.0, 200.0, (side, side)).astype(np.int16)
    stroke = np.zeros((side, side), dtype=bool)
    # From side to side, so that the second look, where there is one, is as large as it gets.
    stroke[side // 2 : side // 2 + 5, side // 8 : side - side // 8] = True
    torch.manual_seed(0)
    paper = Predictor(Network(ScribbleUNet(), device="cpu", name="192 features, untrained"))
    for predictor in (load_predictor(arguments.model, device="cpu"), paper):
        predictor.set_image(image)
        prompts = Prompts.empty((side, side)).with_scribble(stroke)
        again = prompts.with_click((side // 3, side // 3), positive=False)
        again = again.with_mask_input(predictor.predict(prompts).logits)
        grid = torch.rand(1, CHANNELS, predictor.size, predictor.size)
        cases: dict[str, Callable[[], object]] = {
            "predict": partial(predictor.predict, again),
            "set_image": partial(predictor.set_image, image),
            "float32 forward": torch.inference_mode()(partial(predictor.network, grid)),
        }
        print(f"{predictor.name}: {predictor.plan}, second looks on up to {predictor.focus_size} cells a side")
        times = _in_turn(cases, arguments.runs)
        for name, column in times.items():
            print(f"  {name:18}  {_summary(column)}")
        pairs = zip(times["float32 forward"], times["predict"], strict=True)
        print(f"  forward / predict   {statistics.median(plain / ours for plain, ours in pairs):.1f} (median of pairs)")


def effect(arguments: argparse.Namespace) -> None:
    """Drive the effect's controller on a synthetic CT with a segment in every slice.

    Each gesture is a stroke on another slice or a correction of the one before, with the polling that the effect's
    timer does in between; the longest time that a single call holds up the window is given beside it.
    """
    from scribblesegment.mrml.slice_segmenter import SegmenterOptions, SliceSegmenter
    from scribblesegment.service.service import InferenceService

    module = sys.modules[SliceSegmenter.__module__]
    service, scene = InferenceService(), _Scene(arguments)
    controller = SliceSegmenter(
        service,
        save_state=scene.logic.SaveStateForUndo,
        options=SegmenterOptions(protect="all"),
    )
    times: dict[str, list[float]] = defaultdict(list)
    # The functions that the controller calls; their time is part of `paint` or `poll`.
    steps = ("resolve_target", "view_plane", "write_drawing", "rasterize", "segment_on_plane", "write_mask")
    service.prepare()
    while service.state.kind in ("idle", "loading"):
        service.wait(0.1)
    controller.target(scene.editor)  # what happens when the effect is activated
    scene.gesture(controller, service, 0)
    controller.clear_slice(scene.editor, scene.view)
    controller._save_state = _timed(controller._save_state, times["save undo state"])
    replacements = {name: _timed(getattr(module, name), times[name]) for name in steps if hasattr(module, name)}
    with patch.dict(vars(module), replacements):
        measured = []
        for number in range(arguments.gestures):
            measured.append(scene.gesture(controller, service, number))
            times["network, on its thread"].append(service.state.milliseconds or 0.0)
    service.close()
    total, blocked = ([1000 * one for one in column] for column in zip(*measured, strict=True))
    print(f"{arguments.shape} voxels, {len(total)} gestures, {'oblique' if arguments.oblique else 'axial'} view")
    print(f"stroke end to changed segment  {_summary(total)}")
    print(f"longest hold of the window     {_summary(blocked)}, worst {max(blocked):.1f} ms")
    rows = {name: sum(column) for name, column in times.items()}
    rows["everything else"] = sum(total) - sum(rows.values())
    print(f"{'step':<32}{'ms a gesture':>12}{'share':>8}")
    for name, milliseconds in rows.items():
        print(f"{name:<32}{milliseconds / len(total):>12.1f}{milliseconds / sum(total):>8.0%}")


class _Scene:
    """A CT with a bright cylinder, a segment that spans it, a neighbour, and an axial or oblique slice view."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import slicer
        from vtkmodules.util.numpy_support import numpy_to_vtk
        from vtkmodules.vtkCommonDataModel import vtkImageData

        self.shape, self.spacing, self.oblique = tuple(arguments.shape), (0.8, 0.8, 1.5), arguments.oblique
        self.hand_seconds = arguments.hand
        k, j, i = self.shape
        rows, columns = np.ogrid[:j, :i]
        noise = np.random.default_rng(0).normal(0.0, 20.0, (j, i))
        plane = np.where(np.hypot(rows - j / 2, columns - i / 2) < min(j, i) / 6, 120.0, -50.0) + noise
        image = vtkImageData()
        image.SetDimensions(i, j, k)
        voxels = np.broadcast_to(plane.astype(np.int16), self.shape)
        image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=True))
        self.scene = slicer.vtkMRMLScene()
        self.segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        self.segmentations.SetMRMLScene(self.scene)
        volume = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        volume.SetSpacing(self.spacing)
        volume.SetAndObserveImageData(image)
        segmentation = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        self.editor = self.scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(self.scene)
        self.logic.SetSegmentEditorNode(self.editor)
        self.editor.SetAndObserveSegmentationNode(segmentation)
        self.editor.SetAndObserveSourceVolumeNode(volume)
        segment, neighbour = (segmentation.GetSegmentation().AddEmptySegment() for _ in range(2))
        for identifier, extent in (
            (segment, (i // 4, i // 3, j // 4, j // 3, 0, k - 1)),
            (neighbour, (i // 10, i // 6, j // 4, 3 * j // 4, 0, k - 1)),
        ):
            labelmap = slicer.vtkOrientedImageData()
            labelmap.SetExtent(*extent)
            labelmap.SetSpacing(self.spacing)
            labelmap.AllocateScalars(3, 1)
            labelmap.GetPointData().GetScalars().Fill(1)
            mode = self.segmentations.MODE_MERGE_MASK
            self.segmentations.SetBinaryLabelmapToSegment(labelmap, segmentation, identifier, mode)
        self.editor.SetSelectedSegmentID(segment)
        if arguments.masked:
            self.editor.SetMaskMode(segmentation.EditAllowedOutsideAllSegments)
            self.editor.SourceVolumeIntensityMaskOn()
            self.editor.SetSourceVolumeIntensityMaskRange(-500.0, 500.0)
        self.view = slicer.vtkMRMLSliceNode()
        self.view.SetLayoutName("Red")
        self.scene.AddNode(self.view)

    def gesture(self, controller: Any, service: Any, number: int) -> tuple[float, float]:
        """Draw a stroke, and wait until the segment has changed; gives seconds, and those of the longest call.

        They count from the end of the stroke; the hand draws for a while before.
        """
        from scribblesegment.mrml.recorder import Annotation

        k, j, i = self.shape
        index = min(max(k // 2 + (number // 2) % 20 - 10, 0), k - 1)
        center = np.array([i / 2, j / 2, index]) * self.spacing
        angle, up = 0.3 if self.oblique else 0.0, np.array([0.0, 1.0, 0.0])
        across = np.array([np.cos(angle), 0.0, np.sin(angle)])
        self.view.SetSliceToRASByNTP(*np.cross(across, up), *across, *center, 0)
        radius = min(j, i) / 6 * self.spacing[0]
        # The first stroke of a slice lies in the cylinder, the second, a correction, beside it.
        offset = np.zeros(3) if number % 2 == 0 else 1.3 * radius * up
        points = center + offset + np.linspace(-0.6, 0.6, 60)[:, None] * radius * across
        began, place = time.perf_counter(), controller.place(self.editor, self.view)
        controller.expect(*place)
        while time.perf_counter() - began < self.hand_seconds:
            service.wait(0.004)
        began = time.perf_counter()
        drawn = Annotation("stroke", tuple(points), number % 2 == 0)
        controller.draw(*place, drawn, 2.0)
        blocked = time.perf_counter() - began
        while controller.busy:
            service.wait(0.006)  # as long as the effect's timer waits before it lets the window live
            started = time.perf_counter()
            update = controller.poll()
            blocked = max(blocked, time.perf_counter() - started)
            if update.problem:
                raise SystemExit(f"error: {update.problem}")
        return time.perf_counter() - began, blocked


def follow(arguments: argparse.Namespace) -> None:
    """Draw strokes of which every other pair is followed through the volume until the next one interrupts.

    A stroke interrupts where a propagation ran when it began. Holds are calls during which the window waits.
    """
    import resource

    from scribblesegment.mrml.propagation import PropagationOptions, VolumePropagation
    from scribblesegment.mrml.slice_segmenter import SliceSegmenter
    from scribblesegment.mrml.source_image import SourceImages
    from scribblesegment.service.service import InferenceService

    service, scene, images = InferenceService(), _Scene(arguments), SourceImages()
    service.choose(arguments.model)
    save = scene.logic.SaveStateForUndo
    controller = SliceSegmenter(service, save_state=save, images=images)
    propagation = VolumePropagation(service, save_state=save, images=images)
    service.prepare()
    while service.state.kind in ("idle", "loading"):
        service.wait(0.1)
    answers: dict[bool, list[float]] = {False: [], True: []}
    stops: list[float] = []
    starts: list[float] = []
    peaks, made = [], 0
    stop, start = _timed(propagation.stop, stops), _timed(propagation.start, starts)
    for number in range(4 + arguments.gestures):
        if number == 4:  # what is lazy is loaded
            for column in (*answers.values(), stops, starts):
                column.clear()
        interrupts = propagation.busy
        if interrupts:
            stop()
        answers[interrupts].append(1000 * scene.gesture(controller, service, number)[0])
        if number % 4 < 2:
            start(scene.editor, scene.view, PropagationOptions(model=arguments.model), own_step=False)
        ends = time.perf_counter() + arguments.pause
        while time.perf_counter() < ends:
            service.wait(0.012)
            update = propagation.poll()
            made += 0 if update.report is None else update.report.made
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / _MB)
    service.close()
    with_it, without = answers[True], answers[False]
    difference = statistics.median(with_it) - statistics.median(without)
    print(f"{scene.shape} voxels, {arguments.gestures} gestures, {made} slices propagated")
    print(f"answer to a stroke           {_summary(without)}")
    print(f"  that interrupts            {_summary(with_it)}")
    ratio = statistics.median(with_it) / statistics.median(without)
    print(f"  ratio {ratio:.2f}, difference {difference:.1f} ms")
    print(f"hold when it is interrupted  {_summary(stops)}")
    print(f"hold when it begins          {_summary(starts)}")
    print(f"most memory after a fifth of the gestures {peaks[len(peaks) // 5]:.0f} MB, at the end {peaks[-1]:.0f} MB")


def propagation(arguments: argparse.Namespace) -> None:
    """Propagate an ellipsoid in noise from a few accepted slices; everything is counted."""
    import resource

    from scribblesegment import load_predictor
    from scribblesegment.data.volume import Volume
    from scribblesegment.propagation import Propagator
    from studies.common import dice

    sides = (arguments.slices, arguments.side, arguments.side)
    grid = np.meshgrid(*(np.linspace(-1.0, 1.0, count) for count in sides), indexing="ij", sparse=True)
    structure = (grid[0] / 0.8) ** 2 + (grid[1] / 0.3) ** 2 + (grid[2] / 0.45) ** 2 < 1.0
    noise = np.random.default_rng(0).normal(0.0, 60.0, structure.shape)
    volume = Volume((200.0 * structure + noise).astype(np.int16), np.diag([0.7, 0.7, 2.0, 1.0]))
    shown = np.flatnonzero(structure.any(axis=(1, 2)))
    chosen = shown[np.linspace(0, len(shown) - 1, arguments.entries + 2)[1:-1].round().astype(int)]
    annotated = {int(index): structure[index] for index in chosen}
    predictor = load_predictor(arguments.model, device="cpu")
    spent: list[float] = []
    for name in ("set_image", "set_context", "predict"):
        setattr(predictor, name, _timed(getattr(predictor, name), spent))
    propagator = Propagator(predictor)
    propagator.run(volume, annotated, 0, index_range=(int(chosen[0]) + 1, int(chosen[0]) + 3))  # loads what is lazy
    spent.clear()
    result = propagator.run(volume, annotated, 0)
    found = np.mean([dice(one.mask, structure[index]) for index, one in result.slices.items()])
    seconds = len(result.slices) / result.slices_per_second
    print(f"{predictor.name}: {len(result.slices)} slices from {len(annotated)} accepted ones, Dice {found:.3f}")
    print(f"  slices a second     {result.slices_per_second:.1f}")
    print(f"  of it the network   {sum(spent) / seconds / 10:.0f} %")
    print(f"  most memory         {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e9:.2f} GB")


def refinement(arguments: argparse.Namespace) -> None:
    """Refine a U-Net as nnU-Net configures it, with random weights, on noise with strokes of three labels.

    An iteration with the features in front of the last layers cached is set against forward and backward passes through
    the whole network, for all its weights and for the same layers only.
    """
    import torch
    from torch import Tensor
    from torch.nn import functional

    from scribblesegment.data.labels import LabelScribbles
    from scribblesegment.inference.devices import computes_bfloat16
    from scribblesegment.refinement.constraints import in_bfloat16
    from scribblesegment.refinement.lagrangian import RefinementConfig
    from scribblesegment.refinement.network_graph import prepare_network
    from scribblesegment.refinement.outputs import Output
    from scribblesegment.refinement.refiner import Refiner
    from studies.refinement import PlainUNet

    torch.manual_seed(0)
    side, network = arguments.side, PlainUNet(4, arguments.features).eval()
    image, labels = torch.rand(1, 1, side, side), np.full((side, side), -1, np.int16)
    for label, row in ((1, side // 8), (2, side // 2), (0, 7 * side // 8)):
        labels[row - 1 : row + 2, side // 5 : side // 2] = label
    marks = LabelScribbles.from_labels(labels)
    marked, targets = torch.from_numpy(marks.marked), torch.from_numpy(labels[marks.marked].astype(np.int64))
    prepared, _, _, _ = prepare_network(network, image, Output())
    split = prepared.split(arguments.layers)
    features = split.features(image)
    half, own = in_bfloat16(features), dict(network.named_parameters())

    def gradients(forward: Callable[[dict[str, Tensor]], Tensor], names: list[str]) -> dict[str, Tensor]:
        weights = {name: own[name].detach().clone().requires_grad_() for name in names}
        functional.cross_entropy(forward(weights)[0][:, marked].T.float(), targets).backward()
        return {name: tensor.grad for name, tensor in weights.items() if tensor.grad is not None}

    def whole(weights: dict[str, Tensor]) -> Tensor:
        others = {name: tensor.detach() for name, tensor in own.items()}
        logits: Tensor = torch.func.functional_call(network, {**others, **weights}, (image,))
        return logits

    def in_half(weights: dict[str, Tensor]) -> Tensor:
        return split.run({name: tensor.bfloat16() for name, tensor in weights.items()}, half)

    refined = list(split.pretrained)
    cases: dict[str, Callable[[], Any]] = {
        "cached, float32": lambda: gradients(lambda weights: split.run(weights, features), refined),
        "whole network, all weights": lambda: gradients(whole, list(own)),
        "whole network, the same layers": lambda: gradients(whole, refined),
    }
    if computes_bfloat16("cpu"):
        cases["cached, bfloat16"] = lambda: gradients(in_half, refined)
    cached, reference = cases["cached, float32"](), cases["whole network, all weights"]()
    times = {name: min(column) for name, column in _in_turn(cases, arguments.runs).items()}
    print(f"{side} x {side}, the last {arguments.layers} of {len(prepared.layers)} layers; milliseconds an iteration")
    for name, milliseconds in times.items():
        print(f"  {name:32}{milliseconds:8.1f}   {milliseconds / times['cached, float32']:5.1f} x the cached")
    difference = max(float((cached[name] - reference[name]).abs().max()) for name in refined)
    print(f"  largest difference of gradients {difference:.1e}")
    config = RefinementConfig(layers=arguments.layers)
    began = time.perf_counter()
    refiner = Refiner(network, image[0], config=config)
    refiner.infer()
    result = refiner.refine(marks)
    print(
        f"  a slice: {time.perf_counter() - began:.2f} s with preparation and first prediction, of which "
        f"{result.seconds:.2f} s are the refinement ({result.iterations} iterations, {result.stopped})"
    )
    prediction = _most_allocated(lambda: torch.inference_mode()(network)(image))
    refining = _most_allocated(lambda: Refiner(network, image[0], config=config).refine(marks))
    print(f"  most memory for tensors: prediction {prediction:.1f} MB, refinement {refining:.1f} MB")


def _most_allocated(work: Callable[[], object]) -> float:
    """Most megabytes that PyTorch held at once on the processor while it did some work, above those before."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    # The public tables give sums only; the events tell every allocation (positive) and release (negative) in order.
    events = profile.profiler.kineto_results.events()
    held = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    return float(held.max()) / _MB


def memory(arguments: argparse.Namespace) -> int:
    """Segment one slice of a volume on disk in a process of its own; returns 1 if it needs more than the limit."""
    from scribblesegment import Segment, Volume, write_segmentation

    k, j, i = arguments.shape
    volume_mb, largest = k * j * i * 2 / _MB, 0.0
    print(f"volume {k} x {j} x {i} int16: {volume_mb:.0f} MB; limit {volume_mb + _MEMORY_LIMIT_MB:.0f} MB", flush=True)
    print(f"{'read':>5} {'write':>9} {'peak MB':>8} {'above volume':>13} {'seconds':>8}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        strokes = Path(folder) / "strokes.seg.nrrd"
        labels = np.zeros((k, j, i), np.uint8)
        labels[k // 2, j // 2, i // 3 : i // 2] = 1
        # Right and anterior of a file in LPS are negative.
        write_segmentation(
            strokes, Volume(labels, np.diag((-0.7, -0.7, 1.0, 1.0))), [Segment(1, "ball", (0.2, 0.8, 0.2))]
        )
        for read in arguments.image:
            image = Path(folder) / f"image.{read}"
            write_ball(image, (k, j, i))
            for written in arguments.output:
                output = [str(Path(folder) / f"result.{written}"), "--overlay", str(Path(folder) / "overlay.png")]
                command = [
                    "-m",
                    "scribblesegment",
                    "segment",
                    str(image),
                    "--scribbles",
                    str(strokes),
                    "-o",
                    *output,
                ]
                peak_mb, seconds = _weigh([sys.executable, *command])
                largest = max(largest, peak_mb - volume_mb)
                print(f"{read:>5} {written:>9} {peak_mb:8.0f} {peak_mb - volume_mb:13.0f} {seconds:8.1f}", flush=True)
            image.unlink()
    return int(largest > _MEMORY_LIMIT_MB)


def write_ball(path: Path, shape: tuple[int, int, int]) -> None:
    """Write a noisy ball as an uncompressed int16 volume, plane by plane so that this process stays small."""
    k, j, i = shape
    if path.suffix == ".nrrd":
        header = (
            f"NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: {i} {j} {k}\n"
            "space directions: (0.7,0,0) (0,0.7,0) (0,0,1)\nkinds: domain domain domain\nendian: little\n"
            "encoding: raw\nspace origin: (0,0,0)\n\n"
        )
    else:
        header = (
            f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = {i} {j} {k}\n"
            "ElementSpacing = 0.7 0.7 1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        )
    noise = np.random.default_rng(0).normal(0.0, 20.0, (j, i))
    rows, columns = np.ogrid[-1 : 1 : j * 1j, -1 : 1 : i * 1j]
    with open(path, "wb") as file:
        file.write(header.encode())
        for depth in np.linspace(-1, 1, k):
            ball = 1000.0 * (rows**2 + columns**2 + depth**2 < 0.5) - 500.0
            file.write((ball + np.roll(noise, int(1000 * depth))).astype("<i2").tobytes())


def _weigh(command: list[str]) -> tuple[float, float]:
    """Run a command; gives its largest resident memory in MB, and seconds."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss * _RSS_UNIT / _MB, time.perf_counter() - started


def context(arguments: argparse.Namespace) -> None:
    """Time predictions with context sets of several sizes, alone and with a stroke."""
    import resource

    from scribblesegment import ContextEntry, ContextSet, Prompts, load_predictor

    rng, side = np.random.default_rng(0), arguments.side
    images = rng.normal(0.5, 0.1, (max(*arguments.entries, 1) + 1, side, side)).clip(0, 1).astype(np.float32)
    rows, columns = np.ogrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    mask = rows**2 + 2 * columns**2 < 0.2
    images[:, mask] = (images[:, mask] + 0.3).clip(0, 1)
    predictor = load_predictor(arguments.model, device="cpu")
    empty = Prompts.empty((side, side))
    stroke = empty.with_scribble((np.abs(rows) < 0.02) & (np.abs(columns) < 0.2))
    print(f"{predictor.name}: {side} x {side}, {predictor.plan}")
    for count in arguments.entries:
        entries = [ContextEntry(one, mask, (1.0, 1.0), source=str(n)) for n, one in enumerate(images[1 : count + 1])]
        shown = ContextSet("phantom", tuple(entries))
        cases: dict[str, Callable[[], object]] = {
            "set_context": partial(predictor.set_context, shown),
            "set_image": partial(predictor.set_image, images[0]),
            "with a stroke": partial(predictor.predict, stroke),
        }
        if count:
            cases["from the context"] = partial(predictor.predict, empty)
        for name, times in _in_turn(cases, arguments.runs).items():
            print(f"  {count:3} entries  {name:18} {_summary(times)}")
    print(f"  most memory  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e9:.2f} GB")


def published(arguments: argparse.Namespace) -> None:
    """Time ScribblePrompt-UNet, MultiverSeg and ScribblePrompt-SAM of the published shapes, or narrower ones.

    The plain implementations run in float32 as torch does by itself: the forward pass of the UNet, and equations 3 and
    4 of MultiverSeg for target and entry side by side. The time of the processor is what counts beside other work.
    """
    import torch

    from scribblesegment import ContextEntry, ContextSet, Network, Predictor, Prompts
    from scribblesegment.inference.sam import SamNetwork
    from scribblesegment.models.factory import build_network

    torch.manual_seed(0)
    rng, side = np.random.default_rng(0), 128
    images = rng.random((arguments.entries + 1, side, side), dtype=np.float32)
    click = Prompts.empty((side, side)).with_click((40, 40))
    entries = [ContextEntry(one, one > 0.5, (1.0, 1.0), source=str(n)) for n, one in enumerate(images[1:])]
    batch = torch.from_numpy(images[1:, None])[None]  # (1, S, 1, side, side)
    x = torch.zeros(1, 5, side, side)
    narrow = {"features": [arguments.width] * 4} if arguments.width else {}
    unet, multiverseg = (build_network(name, narrow).eval() for name in ("scribble_unet", "multiverseg"))
    cases: dict[str, dict[str, Callable[[], object]]] = {}
    for name, module, plain in (
        ("ScribblePrompt-UNet", unet, partial(unet, x)),
        (
            f"MultiverSeg, {arguments.entries} entries",
            multiverseg,
            partial(plain_multiverseg, multiverseg, x, torch.cat([batch, (batch > 0.5).float()], dim=2)),
        ),
    ):
        kinds = ("clicks", "context") if module is multiverseg else ("clicks",)
        predictor = Predictor(Network(module, device="cpu", capabilities=kinds))
        predictor.set_image(images[0])
        if module is multiverseg:
            predictor.set_context(ContextSet("noise", tuple(entries)))
        print(f"{name}: {predictor.plan}")
        cases[name] = {"plain float32": torch.inference_mode()(plain), "predict": partial(predictor.predict, click)}
    small = {"image_size": 64, "width": 48, "prompt_width": 32, "window": 3} if arguments.width else {}
    sam = Predictor(SamNetwork(build_network("scribbleprompt_sam", small), device="cpu", capabilities=("clicks",)))  # type: ignore[arg-type]
    sam.set_image(images[0])

    def new_image() -> None:
        sam.set_image(images[0])
        sam.predict(click)

    cases["ScribblePrompt-SAM"] = {"new image, click": new_image, "predict": partial(sam.predict, click)}
    for name, pair in cases.items():
        times = _in_turn(pair, arguments.runs, clock=time.process_time)
        slow, fast = times.values()
        for what, column in times.items():
            print(f"  {name:24} {what:18} {_summary(column)} of the processor")
        print(f"  {name:24} ratio {statistics.median(a / b for a, b in zip(slow, fast, strict=True)):.1f}")


def plain_multiverseg(network: Any, target: Any, entries: Any) -> Any:
    """MultiverSeg as its paper writes it, from a target (B, 5, H, W) and entries (B, S, 2, H, W)."""
    import torch
    from torch.nn import functional

    batch, size = entries.shape[:2]

    def each(function: Callable[[Any], Any], many: Any) -> Any:
        return function(many.flatten(0, 1)).unflatten(0, (batch, size))

    def cross(block: Any, target: Any, entries: Any) -> tuple[Any, Any]:
        pairs = torch.cat([target[:, None].expand(-1, size, -1, -1, -1), entries], dim=2)
        mixed = each(lambda many: functional.leaky_relu(block.cross(many), 0.01), pairs)
        return block.target(mixed.mean(dim=1)), each(block.support, mixed)

    def larger(many: Any) -> Any:
        return functional.interpolate(many, scale_factor=2, mode="bilinear", align_corners=True)

    skips: list[tuple[Any, Any]] = []
    for block in network.enc_blocks:
        if skips:
            target, entries = functional.max_pool2d(target, 2), each(lambda m: functional.max_pool2d(m, 2), entries)
        target, entries = cross(block, target, entries)
        skips.append((target, entries))
    skips.pop()
    for block in network.dec_blocks:
        beside, beside_entries = skips.pop()
        target = torch.cat([larger(target), beside], dim=1)
        target, entries = cross(block, target, torch.cat([each(larger, entries), beside_entries], dim=2))
    return network.out_conv(target)


def simulation(arguments: argparse.Namespace) -> None:
    """Draw prompt sets of two rounds: first prompts for a mask, and a correction of a wrong prediction.

    On a machine that does other work too, the CPU time tells more than the rate does.
    """
    import multiprocessing

    masks = _masks(arguments.data)
    # Each process has one core for itself: matrix products must not start threads of their own. Read at start-up.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(arguments.processes) as pool:
        start = manager.Barrier(arguments.processes)
        work = [(masks, seed, arguments.seconds, start) for seed in range(arguments.processes)]
        results = pool.starmap(_draw_prompts, work)
    sets = sum(count for count, *_ in results)
    rate = sum(count / seconds for count, seconds, *_ in results)
    first, correction = (1000 * sum(result[place] for result in results) / sets for place in (2, 3))
    print(f"{sets} prompt sets, {len(masks[0])} x {len(masks[0])}, {arguments.processes} processes")
    print(f"rate      {rate:7.1f} sets a second (goal: {_SIMULATION_GOAL} with two cores)")
    print(f"CPU time  {first + correction:7.2f} ms a set: first round {first:.2f} ms, correction {correction:.2f} ms")


def _draw_prompts(
    masks: list[NDArray[np.bool_]], seed: int, seconds: float, start: Any
) -> tuple[int, float, float, float]:
    """Give the number of sets drawn in some seconds, the seconds taken, and the CPU seconds of each round."""
    from scribblesegment.simulation import simulate_corrections, simulate_first_round
    from scribblesegment.simulation.scribbles import gaussian_blur, smooth_noise

    rng = np.random.default_rng(seed)
    cases: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
    for mask in masks:  # predictions with a shifted boundary, missing parts and surplus ones
        noise = smooth_noise(mask.shape, 6.0, np.random.default_rng(len(cases)))
        cases.append((mask, gaussian_blur(mask, 2.0) + 0.25 * noise > 0.5))
    for mask, wrong in cases[:20]:
        simulate_corrections(simulate_first_round(mask, rng), mask, wrong, rng)
    start.wait(timeout=300)
    count, first, correction, started = 0, 0.0, 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        mask, wrong = cases[(count + seed * len(cases) // 2) % len(cases)]
        before = time.process_time()
        prompts = simulate_first_round(mask, rng)
        between = time.process_time()
        simulate_corrections(prompts, mask, wrong, rng)
        first += between - before
        correction += time.process_time() - between
        count += 1
    return count, time.perf_counter() - started, first, correction


def _masks(folder: Path | None) -> list[NDArray[np.bool_]]:
    """Structures of a folder of sets, halved; else smooth ones of one to several parts that cover 3 to 40 %."""
    if folder is not None:
        from studies.data import label_examples

        halved = [one.reference[::2, ::2] for one in label_examples(folder, per_set=12)]
        return [mask for mask in halved if mask.any()]
    from scribblesegment.simulation.scribbles import smooth_noise

    rng, side = np.random.default_rng(0), _SIMULATION_SIDE
    fields = [smooth_noise((side, side), rng.uniform(4, 16), rng) for _ in range(_SIMULATION_CASES)]
    return [np.asarray(field > np.quantile(field, rng.uniform(0.6, 0.97))) for field in fields]


def _timed(call: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    """Give a function that does the same and adds the milliseconds it takes."""

    def wrapped(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args, **options)
        finally:
            times.append(1000 * (time.perf_counter() - began))

    return wrapped


def _in_turn(
    cases: Mapping[str, Callable[[], object]], runs: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Give milliseconds of each case, after one call of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(1 + runs):
        for name, case in cases.items():
            began = clock()
            case()
            times[name].append(1000 * (clock() - began))
    return {name: column[1:] for name, column in times.items()}


def _summary(times: list[float]) -> str:
    ordered = sorted(times)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"median {statistics.median(ordered):6.1f} ms, 95 % {high:6.1f} ms, best {ordered[0]:6.1f} ms"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")

    def add(run: Callable[[argparse.Namespace], int | None], *options: tuple[str, Any]) -> argparse.ArgumentParser:
        """Add a sub-command with options by their defaults; a tuple takes several values of a kind, a bool none."""
        command = commands.add_parser(run.__name__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        for name, default in options:
            if isinstance(default, bool):
                command.add_argument(name, action="store_true", help=" ")
            elif isinstance(default, tuple):
                kind = type(default[0])
                command.add_argument(name, type=kind, nargs="+", default=list(default), help=" ")
            else:
                command.add_argument(name, type=type(default), default=default, help=" ")
        command.set_defaults(run=run)
        return command

    threads = ("--threads", 0)  # torch's own choice
    add(predict, ("--model", "default"), ("--side", 512), ("--runs", 30), threads)
    pause = ("--pause", 0.5)  # seconds between strokes
    scene = (("--hand", 0.2), ("--oblique", False), ("--masked", False))  # seconds from press to release
    add(effect, ("--shape", (300, 512, 512)), ("--gestures", 60), *scene)
    shape = ("--shape", (120, 256, 256))
    add(follow, ("--model", "default"), shape, ("--gestures", 500), pause, *scene)
    add(propagation, ("--model", "default"), ("--slices", 80), ("--side", 512), ("--entries", 8), threads)
    features = ("--features", (32, 64, 128, 256, 256))
    add(refinement, ("--side", 256), features, ("--layers", 4), ("--runs", 7), threads)
    formats = ("--image", ("nrrd", "mha")), ("--output", ("seg.nrrd", "nii.gz", "mha"))
    add(memory, ("--shape", (1000, 512, 512)), *formats)
    add(context, ("--model", "default"), ("--side", 512), ("--entries", (0, 1, 8, 25)), ("--runs", 10), threads)
    add(published, ("--entries", 16), ("--runs", 3), ("--width", 0), ("--threads", 1))
    command = add(simulation, ("--processes", os.cpu_count() or 1), ("--seconds", 5.0))
    command.add_argument("--data", type=Path, help="folder of sets (*.npz) whose labels are used, at half their size")
    return parser


if __name__ == "__main__":
    sys.exit(main())
