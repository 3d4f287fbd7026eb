from __future__ import annotations

import signal

from scribblesegment.batch.local_worker import dask_setup


def test_local_workers_leave_ctrl_c_to_the_program():
    before = signal.getsignal(signal.SIGINT)
    try:
        dask_setup(None)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
