"""Rolls sales up by shop, in a container limited to a tenth of a core, while the shops wait. Fixed: a whole core."""
import collections
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter

SALES = [json.dumps({"shop": number % 37, "cents": number * 13 % 9999, "article": f"a{number % 211}"})
         for number in range(400)]


def roll_up(lines):
    by_shop = collections.Counter()
    for line in lines:
        sale = json.loads(line)
        by_shop[sale["shop"]] += sale["cents"]
    return sorted(by_shop.items())


meter = Meter("roll-ups")
meter.ready()
while meter.goes_on():
    since = meter.next_request(500)
    roll_up(SALES)
    meter.did(1, since)
meter.report()
