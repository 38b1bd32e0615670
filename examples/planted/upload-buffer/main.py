"""Takes uploads; each gets a fresh buffer of forty megabytes, into
which its parts are put here and there. Fixed: the buffer is kept."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter

SIZE = 40 << 20
PART = bytes(range(256)) * 16
kept = bytearray(SIZE)


def take_upload(number):
    buffer = kept if meter.fixed else bytearray(SIZE)
    view = memoryview(buffer)
    for part in range(0, SIZE, 64 << 10):
        view[part : part + len(PART)] = PART
    return view[number % 64]


meter = Meter("uploads")
meter.ready()
number = 0
while meter.goes_on():
    since = meter.next_request(250)
    take_upload(number)
    number += 1
    meter.did(1, since)
meter.report()
