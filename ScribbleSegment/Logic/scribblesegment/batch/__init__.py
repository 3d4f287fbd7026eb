"""A folder of images, segmented from context sets: resumable, on one computer or several."""


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the program that started a local worker and ends it.

    Dask calls this at the start of each worker, because this package is its preload. It imports nothing else: a worker
    that is slow to start, and dies at once, is not restarted.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
