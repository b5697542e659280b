"""Stopping a report: its processes go with it, and it says one line if it can."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from trilemma.commands.report import until_terminated

REPORT = "report gan-mnist ddgan-mnist-t2 --data digits -n 4000 --ladder default --patience 0.05"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_report_leaves_no_process_behind(signum, tmp_path):
    """All of them hold its output, so that it ends only with the last one."""
    command = [sys.executable, "-m", "trilemma", *REPORT.split(), "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        process_group=0,
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("cells/*/*.shards"))) < 2:  # both are at work
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signum)
        out, told = process.communicate(timeout=20)
    finally:
        if process.returncode is None:  # what is left behind must not outlive the test
            os.killpg(process.pid, signal.SIGKILL)
    assert "was there already" not in out and not (tmp_path / "report.json").exists()
    if signum == signal.SIGTERM:
        assert process.returncode == 130  # as for Ctrl-C
        assert told == "trilemma: error: interrupted\n"
    else:
        assert process.returncode == -signum


def test_sigterm_is_ctrl_c_while_a_report_runs():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), until_terminated():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_of_others_are_kept():
    got = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: got.append(signum))
    try:
        with until_terminated():
            os.kill(os.getpid(), signal.SIGTERM)
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_threads_have_no_signals():
    done = []

    def work():
        with until_terminated():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
