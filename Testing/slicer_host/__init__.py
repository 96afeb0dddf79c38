"""A headless Slicer for tests and screenshots: our scripted module runs in it as in Slicer.

`SlicerHost` (host.py) starts it. The scene, the MRML nodes, the module logics and `slicer.util` are Slicer's own (the
`slicer-core` wheel); Qt is PySide6 seen through PythonQt's manners (pythonqt.py); the application, the custom widgets
and the classes that are missing from the wheel are stand-ins that offer what Slicer offers and nothing more.
"""
