"""What every program of this folder measures of itself; see meter.h, whose output this prints too."""
import argparse
import json
import threading
import time


class Meter:
    def __init__(self, unit, **options):
        parser = argparse.ArgumentParser()
        parser.add_argument("--seconds", type=float, default=10)
        parser.add_argument("--fixed", action="store_true")
        for name, default in options.items():
            parser.add_argument(f"--{name}", type=type(default), default=default)
        self.options = parser.parse_args()
        self.fixed = self.options.fixed
        self.unit = unit
        self.work, self.busy, self.due = 0, 0.0, None
        self.lock = threading.Lock()

    def ready(self):
        print("ready", flush=True)
        self.cpu_begun, self.begun = time.process_time(), time.monotonic()

    def goes_on(self):
        return time.monotonic() - self.begun < self.options.seconds

    def did(self, work, since):
        with self.lock:
            self.work += work
            self.busy += time.monotonic() - since

    def next_request(self, rate):
        """Waits for the next of `rate` requests a second; at once while behind. One caller only."""
        now = time.monotonic()
        if self.due is None or self.due < now - 0.5:
            self.due = now
        if self.due > now + 0.002:
            time.sleep(self.due - now)
            now = time.monotonic()
        self.due += 1 / rate
        return now

    def report(self):
        print(json.dumps({"unit": self.unit, "work": self.work, "seconds": time.monotonic() - self.begun,
                          "cpu_s": time.process_time() - self.cpu_begun, "busy_s": self.busy}))
