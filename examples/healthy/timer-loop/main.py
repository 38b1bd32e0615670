"""A watchdog that looks at a few figures ten times a second and sleeps in between."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../planted/support"))
from meter import Meter

meter = Meter("looks")
meter.ready()
while meter.goes_on():
    since = time.monotonic()
    with open("/proc/loadavg") as figures:
        figures.read().split()
    meter.did(1, since)
    time.sleep(0.1)
meter.report()
