"""Looks photos up in an index on disk that is opened uncached for every look-up. Fixed: the index is read once."""
import mmap
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter

BLOCK, BLOCKS = 4096, 16384
meter = Meter("look-ups")
with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
    for _ in range(BLOCKS // 256):
        file.write(os.urandom(256 * BLOCK))
    file.flush()
    os.fsync(file.fileno())
    kept = open(file.name, "rb").read() if meter.fixed else b""
    index = os.open(file.name, os.O_RDONLY | os.O_DIRECT)
    room = mmap.mmap(-1, BLOCK)

    def look_up(number):
        block = number * 7919 % BLOCKS
        if meter.fixed:
            return kept[block * BLOCK]
        os.preadv(index, [room], block * BLOCK)
        return room[0]

    meter.ready()
    number = 0
    while meter.goes_on():
        since = meter.next_request(4000)
        look_up(number)
        number += 1
        meter.did(1, since)
    meter.report()
