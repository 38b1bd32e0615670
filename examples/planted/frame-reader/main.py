"""Takes length-prefixed readings from a gateway over a UNIX socket, with three receives for each reading of 12 bytes.
Fixed: receives what has come and cuts it up."""
import os
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter

RECORD = struct.Struct("!IQ")


def send_readings(connection):
    batch = b"".join(RECORD.pack(8, number) for number in range(2000))
    try:
        while True:
            connection.sendall(batch)
    except OSError:
        os._exit(0)


def read_exactly(connection, count):
    data = b""
    while len(data) < count:
        data += connection.recv(min(4, count - len(data)))
    return data


def read_one_by_one(connection):
    size, = struct.unpack("!I", read_exactly(connection, 4))
    return struct.unpack("!Q", read_exactly(connection, size))[0]


def readings(connection, fixed):
    held = b""
    while True:
        if not fixed:
            yield read_one_by_one(connection)
            continue
        held += connection.recv(65536)
        whole = len(held) - len(held) % RECORD.size
        for _, value in RECORD.iter_unpack(held[:whole]):
            yield value
        held = held[whole:]


meter = Meter("readings")
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    ours.close()
    send_readings(theirs)
theirs.close()
meter.ready()
source = readings(ours, meter.fixed)
total = 0
while meter.goes_on():
    since = meter.next_request(450)
    for _ in range(600):
        total += next(source)
    meter.did(600, since)
ours.close()
os.waitpid(child, 0)
meter.report()
