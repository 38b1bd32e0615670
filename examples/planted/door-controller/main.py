"""Talks to door controllers over sockets; asks with a timeout of zero whether one has spoken. Fixed: waits for it."""
import os
import select
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter


def doors_speak(doors, parent):
    while os.getppid() == parent:
        for door in doors:
            door.send(b"open badge=4711\n")
            time.sleep(0.004)
    os._exit(0)


def spoken(poller, fixed):
    return poller.poll(100 if fixed else 0)


def handle(door):
    verb, badge = door.recv(64).split()
    return verb == b"open" and badge.endswith(b"4711")


meter = Meter("messages")
pairs = [socket.socketpair() for _ in range(8)]
parent = os.getpid()
if os.fork() == 0:
    doors_speak([theirs for _, theirs in pairs], parent)
poller = select.poll()
by_number = {ours.fileno(): ours for ours, _ in pairs}
for number in by_number:
    poller.register(number, select.POLLIN)
meter.ready()
while meter.goes_on():
    for number, _ in spoken(poller, meter.fixed):
        since = time.monotonic()
        handle(by_number[number])
        meter.did(1, since)
meter.report()
