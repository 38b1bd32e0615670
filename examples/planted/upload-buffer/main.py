"""Takes uploads; each gets a fresh buffer of four megabytes, of which a small upload uses the front. Fixed: kept."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter

SIZE = 4 << 20
PART = bytes(range(256)) * 16
kept = bytearray(SIZE)


def take_upload(number):
    buffer = kept if meter.fixed else bytearray(b"\0") * SIZE
    view = memoryview(buffer)
    view[: len(PART)] = PART
    return view[number % 64]


meter = Meter("uploads")
meter.ready()
number = 0
while meter.goes_on():
    since = meter.next_request(350)
    take_upload(number)
    number += 1
    meter.did(1, since)
meter.report()
