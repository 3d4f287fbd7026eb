"""The package's bridge to 3D Slicer's own classes: `vtk` and `slicer.vtk*` only, never the running application.

Works in 3D Slicer and with slicer-core, which is Slicer's libraries as a Python package.
"""
