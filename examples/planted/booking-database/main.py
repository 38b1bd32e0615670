"""Books into SQLite, each booking a transaction of its own. Fixed: two hundred bookings a transaction."""
import os
import sqlite3
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../support"))
from meter import Meter

meter = Meter("bookings")
folder = tempfile.TemporaryDirectory(dir="/var/tmp")
database = sqlite3.connect(os.path.join(folder.name, "bookings.db"), isolation_level=None)
database.execute("create table booking (id integer primary key, account integer, cents integer)")
meter.ready()
number = 0
while meter.goes_on():
    together = 200 if meter.fixed else 1
    since = time.monotonic()
    database.execute("begin")
    for _ in range(together):
        database.execute("insert into booking (account, cents) values (?, ?)", (number % 90, number))
        number += 1
    database.execute("commit")
    meter.did(together, since)
meter.report()
database.close()
folder.cleanup()
