"""Renders mails in a container that weighs an eighth of a batch job's. Fixed: the batch job weighs next to nothing."""
import os
import string
import sys
import textwrap

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter

TEMPLATE = string.Template("Dear $name,\n\nyour order $order of $sum euro has left our house. " * 12)


def render(number):
    text = TEMPLATE.substitute(name=f"customer {number}", order=number, sum=number % 90)
    return "\n".join(textwrap.wrap(text, 72))


meter = Meter("mails")
meter.ready()
number = 0
while meter.goes_on():
    since = meter.next_request(3000)
    render(number)
    number += 1
    meter.did(1, since)
meter.report()
