#!/usr/bin/env python3
"""scripts/test is ended in the middle, also by SIGKILL, while a test has a QEMU run that would outlive its parents: it must not. Neither
must a build, which scripts/demo has in common with it, when that is ended; and scripts/demo does nothing when it is asked for a design that
is none.

usage: killed_run.py SOURCE-DIRECTORY, with the QEMU's path in VH_QEMU_NEW. What scripts/test builds and runs here is a project of one test.
"""
import os, re, signal, subprocess, sys, tempfile, time

source, qemu = os.path.abspath(sys.argv[1]), os.environ["VH_QEMU_NEW"]

PROJECT = """project('killed-run', meson_version: '>=1.0.1')
test('runs-for-ever', find_program('SOURCE/tests/alone'), args: files('program'), timeout: 600)
"""
# Makes no file: a build is never done with it.
SLOW = """custom_target('slow', command: files('slow'), output: 'slow', build_by_default: true)
"""
BUILDING = """#!/bin/sh
: >'WORK/runs'
sh -c 'sleep 600; :' NAME
"""
# As a VMM of ours is started: in a session of its own, with nothing that ties it to its parent.
PROGRAM = """#!/bin/sh
setsid 'QEMU' -nodefaults -no-user-config -display none -machine none -S -name NAME -daemonize
: >'WORK/runs'
sleep 600
"""


def processes(name):
    """The living ones with that word on their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if name.encode() in file.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            pass  # It has just ended.
    return found


def within(seconds, condition):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def check(number, work, in_build=False):
    name, runs = f"killed-run-{os.getpid()}-{number.name}", f"{work}/runs"
    if os.path.exists(runs):
        os.remove(runs)
    for file, text in (("program", PROGRAM), ("slow", BUILDING), ("meson.build", PROJECT + SLOW * in_build)):
        with open(f"{work}/{file}", "w") as output:
            output.write(text.replace("SOURCE", source).replace("QEMU", qemu).replace("NAME", name).replace("WORK", work))
        os.chmod(f"{work}/{file}", 0o755)
    build, what = f"{work}/build", "the build" if in_build else "QEMU"
    if not os.path.exists(build):
        subprocess.run(["meson", "setup", build, work], check=True, stdout=subprocess.DEVNULL)
    with open(f"{work}/output", "w") as output:
        run = subprocess.Popen([f"{source}/scripts/test"], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                               env={**os.environ, "VIRT_HANDOVER_BUILD": build})
    try:
        started = within(120, lambda: os.path.exists(runs) or run.poll() is not None) and processes(name)
        run.send_signal(number)
        ended = within(30, lambda: run.poll() is not None)
        left = [] if within(20, lambda: not processes(name) + processes(build)) else processes(name) + processes(build)
    finally:
        run.kill()
        run.wait()
        for pid in processes(name) + processes(build):
            os.kill(pid, signal.SIGKILL)
    with open(f"{work}/output") as output:
        said = output.read()
    last = said.rstrip().rpartition("\n")[2]
    problems = []
    if not started:
        problems.append(f"{what} did not come up, so nothing was tried")
    if not ended:
        problems.append("scripts/test did not end")
    if left:
        problems.append(f"{what} was left: {left}")
    if number != signal.SIGKILL and not re.fullmatch("0 passed, 1 failed, 0 skipped", last):
        problems.append(f"its last line was '{last}'")
    for problem in problems:
        print(f"{number.name}: {problem}\n{said}")
    return not problems


def check_design(work):
    build = f"{work}/no-build"
    ran = subprocess.run([f"{source}/scripts/demo", "relaid"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                         env={**os.environ, "VIRT_HANDOVER_BUILD": build})
    good = ran.returncode == 1 and "no design 'relaid'; there are: relayed " in ran.stderr and not ran.stdout and not os.path.exists(build)
    if not good:
        print(f"scripts/demo relaid ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return good


with tempfile.TemporaryDirectory(prefix="killed-run-") as work:
    good = [check(number, work) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)]
    good += [check(number, work, in_build=True) for number in (signal.SIGTERM, signal.SIGINT)]
    good.append(check_design(work))
sys.exit(0 if all(good) else 1)
