"""The designs as config/design.h has them, in its order, for scripts that name them (see scripts/designs)."""
import collections, os, subprocess

Design = collections.namedtuple("Design", ("name", "owner", "kind", "oldest_old", "oldest_new", "devices", "by_hand_of"))


def rows():
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/designs")
    listed = subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Design(*line.split()) for line in listed.splitlines()]


ROWS = rows()
ALL = [row.name for row in ROWS]
OF_UPGRADES = [row.name for row in ROWS if row.kind != "by-hand"]
BASELINES = [row.name for row in ROWS if row.kind == "baseline"]
BY_HAND = [(row.by_hand_of, row.name) for row in ROWS if row.kind == "by-hand"]  # What a design rests on, driven by hand.
WITH_DEVICES = [row.name for row in ROWS if row.kind == "upgrade" and row.devices == "devices"]
# What a VM for this design is started with.
OWNERS = {row.name: "manager" if row.owner == "either" else row.owner for row in ROWS}
