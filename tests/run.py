#!/usr/bin/env python3
"""usage: tests/run.py BUILD [OPTION of `meson test`...]

`meson test`, as two of them side by side: emulated hosts (suite test-host), which keep one processor each at work for minutes, one after the
other; and all other tests, as many at a time as there are processors (or MESON_TESTTHREADS), for they wait more than they work. The logs of
the former are testlog-hosts.*, those of the others testlog.*. Exits with the greater of their statuses. What ends it ends both.
"""
import os, signal, subprocess, sys


def main():
    build, options = sys.argv[1], sys.argv[2:]
    common = ["setpriv", "--pdeathsig", "KILL", "--", "meson", "test", "-C", build, "--no-rebuild", "--print-errorlogs", *options]
    threads = os.environ.get("MESON_TESTTHREADS") or str(os.cpu_count())
    running = [
        subprocess.Popen([*common, "--num-processes", "1", "--suite", "test-host", "--logbase", "testlog-hosts"]),
        subprocess.Popen([*common, "--num-processes", threads, "--no-suite", "test-host"]),
    ]

    def pass_on(number, frame):
        for one in running:
            if one.poll() is None:
                one.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    return max(abs(one.wait()) for one in running)


sys.exit(main())
