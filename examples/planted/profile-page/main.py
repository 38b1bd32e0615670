"""Renders profile pages; asks the user store for each of ten friends, one after the other. Fixed: for all at once."""
import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter


def ask(store, keys):
    store.sendall(b"get " + " ".join(keys).encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += store.recv(65536)
    return answer.split()


def render(store, user):
    keys = [f"user:{user + friend}" for friend in range(10)]
    names = ask(store, keys) if meter.fixed else [ask(store, [key])[0] for key in keys]
    return b"<ul><li>" + b"<li>".join(names) + b"</ul>"


def serve(first):
    with socket.create_connection(("127.0.0.1", meter.options.port)) as store:
        store.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        user = first
        while meter.goes_on():
            since = time.monotonic()
            render(store, user)
            user += 3
            meter.did(1, since)


meter = Meter("pages", port=0)
meter.ready()
threads = [threading.Thread(target=serve, args=(first,)) for first in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
meter.report()
