"""A Redis server of its own at light load: forty gets and sets a second, far from anything worth changing."""
import os
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../planted/support"))
from meter import Meter

meter = Meter("commands")
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "redis.sock")
    server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder],
                              stdout=subprocess.DEVNULL)
    while not os.path.exists(path):
        time.sleep(0.02)
    cache = socket.socket(socket.AF_UNIX)
    cache.connect(path)
    meter.ready()
    number = 0
    while meter.goes_on():
        since = meter.next_request(40)
        cache.sendall(b"SET key:%d value:%d\r\n" % (number % 10, number) if number % 4 == 0 else b"GET key:%d\r\n" % (number % 10))
        cache.recv(4096)
        number += 1
        meter.did(1, since)
    meter.report()
    server.terminate()
    server.wait()
