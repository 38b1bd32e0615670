"""Renders pages; each asks for every plug-in's hook file, which hardly any plug-in has. Fixed: asked once."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter

PLUGINS = [f"plugin_{number}" for number in range(40)]
known = {}


def has_hook(folder, plugin, page):
    key = (plugin, page)
    if meter.fixed and key in known:
        return known[key]
    try:
        os.stat(f"{folder}/{plugin}/hooks/{page}.py")
        known[key] = True
    except OSError:
        known[key] = False
    return known[key]


def render(folder, page, number):
    hooks = [plugin for plugin in PLUGINS if has_hook(folder, plugin, page)]
    return f"<html><h1>{page} {number}</h1>{''.join(hooks)}</html>"


meter = Meter("pages")
with tempfile.TemporaryDirectory() as folder:
    meter.ready()
    number = 0
    while meter.goes_on():
        since = meter.next_request(6000)
        render(folder, "checkout" if number % 3 else "cart", number)
        number += 1
        meter.did(1, since)
    meter.report()
