"""The page in a real browser. Against the fixture, where every figure is known; and, where PROFILER_URL names a daemon, against that."""

import json
import os
import threading
import time
import unittest
from pathlib import Path
from urllib.parse import parse_qs, quote, urlparse
from urllib.request import urlopen

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import fixture

API = fixture.CONTAINERS[0][0]
HOSTILE = fixture.CONTAINERS[4][0]
SWITCHES = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]


def start_browser():
    options = webdriver.ChromeOptions()
    for switch in SWITCHES:
        options.add_argument(switch)
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver")))


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = start_browser()
        cls.addClassCleanup(cls.browser.quit)
        cls.address = cls.serve()

    @classmethod
    def serve(cls):
        raise unittest.SkipTest("not a test of its own")

    def setUp(self):
        self.size(1360, 900)
        self.emulate("light")
        self.browser.get_log("browser")

    def size(self, width, height):
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})

    def emulate(self, scheme):
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def until(self, condition, what, patience=30):
        end = time.monotonic() + patience
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.05)
        self.fail(f"never: {what}; the page says {self.browser.find_element(By.TAG_NAME, 'body').text[:600]!r}")

    def open(self, query=""):
        self.browser.get(f"{self.address}/{query}")
        self.until(lambda: self.browser.execute_script("return document.body.dataset.ready"), "the first answers are drawn")

    def query(self):
        return {name: values[0] for name, values in parse_qs(urlparse(self.browser.current_url).query).items()}

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        # In one go: the page draws anew while it is looked at.
        return self.browser.execute_script("return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText.trim())", selector)

    def act(self, change, what, condition):
        """Does something that asks the daemon, and waits until its answer is drawn."""
        before = self.browser.execute_script("return document.body.dataset.ready")
        change()
        self.until(lambda: self.browser.execute_script("return document.body.dataset.ready") != before and condition(), what)

    def screenshot(self, name):
        directory = os.environ.get("PAGE_SCREENSHOTS")
        if directory:
            self.until(lambda: self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0](true)))"), "drawn")
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(str(Path(directory) / f"{type(self).__name__.lower()}-{name}.png"))

    def colours(self):
        """How many colours the canvas holds: a blank one has one."""
        return self.browser.execute_async_script("""const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => {
            const canvas = document.getElementById('flame');
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            const seen = new Set();
            for (let i = 0; i < data.length; i += 4) seen.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
            done([...seen]);
        }));""")

    def assert_no_complaints(self):
        self.assertEqual([], [entry["message"] for entry in self.browser.get_log("browser") if entry["source"] != "rendering"])

    def assert_fits(self):
        wide, room = self.browser.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        self.assertLessEqual(wide, room)


class WithKnownFigures(Page):
    @classmethod
    def serve(cls):
        server = fixture.serve()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}"

    def click_frame(self, name):
        """Clicks where the frame is drawn; the canvas has no elements to find."""
        x, y = self.browser.execute_async_script("""const [name, done] = arguments;
            import('/assets/app.js').then(() => 0); const canvas = document.getElementById('flame'); const box = canvas.getBoundingClientRect();
            const tip = document.getElementById('tip');
            for (let y = 9; y < box.height; y += 18) for (let x = 2; x < box.width; x += 6) {
              canvas.dispatchEvent(new MouseEvent('mousemove', { clientX: box.left + x, clientY: box.top + y, bubbles: true }));
              if (!tip.hidden && tip.querySelector('b').textContent === name) { done([x, y]); return; }
            }
            done([null, null]);""", name)
        self.assertIsNotNone(x, f"{name} is not drawn")
        canvas = self.find("#flame")
        ActionChains(self.browser).move_to_element_with_offset(canvas, x - canvas.size["width"] // 2 + 1, y - canvas.size["height"] // 2).click().perform()

    def test_it_shows_the_node_its_coverage_its_cost_and_its_containers(self):
        self.open()
        self.assertEqual("node-a", self.find("#node").text)
        facts = self.find("#coverage").text
        for text in ("99.3 %", "98.1 %", "0.7 % of a core", "66.0 MiB"):
            self.assertIn(text, facts)
        names = self.texts("#containers .name")
        self.assertEqual(["all containers", *[container[0] for container in fixture.CONTAINERS]], names)
        bar = self.find("#containers .bar").get_attribute("aria-label")
        self.assertIn("CPU, user 9.0 %", bar)
        self.assertGreater(len(self.colours()), 8)
        self.screenshot("light")
        self.assert_no_complaints()

    def test_a_hostile_name_stays_text(self):
        self.open()
        self.assertIn(HOSTILE, self.texts("#containers .name"))
        self.assertEqual(0, len(self.browser.find_elements(By.CSS_SELECTOR, "#containers img, #hot b, #crumbs img")))
        self.act(lambda: self.find(f'#containers button[data-name="{HOSTILE}"]').click(), "it is chosen", lambda: self.query().get("container") == HOSTILE)
        self.assertEqual(["<b>main</b>"], self.texts("#hot tbody td:first-child"))
        self.assert_no_complaints()

    def test_a_click_zooms_escape_leaves_and_back_returns(self):
        self.open()
        self.click_frame("parse_json")
        self.assertEqual(["all", API, "java", "start_thread", "worker_loop", "handle_request", "parse_json"], self.texts("#crumbs button"))
        self.assertEqual(["json_number", "json_string"], self.texts("#hot tbody td:first-child"))
        self.assertIn("parse_json", self.query()["focus"])
        self.screenshot("zoomed")
        self.find("body").send_keys(Keys.ESCAPE)
        self.until(lambda: self.texts("#crumbs button") == ["all"], "Escape zooms out")
        self.browser.back()
        self.until(lambda: self.texts("#crumbs button")[-1:] == ["parse_json"], "Back zooms in again")
        self.assert_no_complaints()

    def test_the_keyboard_alone_walks_and_zooms(self):
        self.open()
        canvas = self.find("#flame")
        self.browser.execute_script("arguments[0].focus()", canvas)
        for _ in range(2):
            canvas.send_keys(Keys.ARROW_DOWN)
        self.assertIn("java", self.find("#frame").text)
        canvas.send_keys(Keys.ENTER)
        self.until(lambda: self.texts("#crumbs button")[-1] == "java", "Enter zooms")
        self.find("body").send_keys("/")
        self.assertEqual("search", self.browser.switch_to.active_element.get_attribute("id"))

    def test_a_search_counts_each_stack_once_and_marks_it(self):
        self.open()
        before = set(self.colours())
        self.find("#search").send_keys("json")
        # parse_json holds json_number and json_string: 370 of 804 samples.
        self.until(lambda: self.find("#matched").text == "46.0 % matched", "what matches is summed")
        self.assertTrue(set(self.colours()) - before)
        self.assertEqual("json", self.query()["q"])
        self.find("#search").clear()
        self.find("#search").send_keys("/^tcp_/")
        self.until(lambda: self.find("#matched").text == "22.4 % matched", "expressions work")

    def test_a_container_filters_everything(self):
        self.open()
        self.find("#filter").send_keys("redis")
        self.assertEqual(["all containers", "shop/redis-0/redis"], self.texts("#containers .name"))
        self.act(lambda: self.find('#containers button[data-name="shop/redis-0/redis"]').click(), "it is chosen", lambda: "shop/redis-0/redis" in self.query().get("container", ""))
        self.assertNotIn("json_number", self.texts("#hot tbody td:first-child"))
        self.assertIn("lookupKey", self.texts("#hot tbody td:first-child"))
        self.act(lambda: self.find("#tab-time").click(), "its time", lambda: self.find("#time-panel").is_displayed())
        self.assertIn("batch/report-28441-9xk2p/report", self.find("#time-panel").text)

    def test_kinds_change_the_unit(self):
        self.open()
        self.act(lambda: self.find('#kinds button[value="offcpu"]').click(), "off-CPU is drawn", lambda: self.query().get("kind") == "offcpu")
        self.assertRegex(self.texts("#hot tbody td:nth-child(3)")[0], r"s$")
        self.assertNotIn("samples", self.texts("#hot tbody td:nth-child(3)")[0])

    def test_two_ranges_are_compared_in_red_and_blue(self):
        self.open()
        plain = set(self.colours())
        self.act(lambda: self.find("#compare").click(), "the range before is compared with", lambda: "base_from" in self.query())
        rows = {row.split()[0]: row for row in self.texts("#hot tbody tr")}
        self.assertIn("−19.1 pp", rows["apply_discounts"])
        self.assertIn("+7.5 pp", rows["gc_mark"])
        self.assertIn("red grew", self.find("#diff-note").text)
        parts = [tuple(map(int, colour.split(","))) for colour in set(self.colours()) - plain]
        self.assertTrue(any(r > b + 60 for r, _, b in parts), "nothing is red")
        self.assertTrue(any(b > r + 40 for r, _, b in parts), "nothing is blue")
        self.screenshot("compared")
        self.act(lambda: self.find("#compare").click(), "comparing ends", lambda: "base_from" not in self.query())
        self.assert_no_complaints()

    def test_a_drag_in_the_timeline_chooses_the_range(self):
        self.open()
        timeline = self.find("#timeline")
        drag = lambda: ActionChains(self.browser).move_to_element_with_offset(timeline, -200, 0).click_and_hold().move_by_offset(120, 0).release().perform()
        self.act(drag, "the range is chosen", lambda: "to" in self.query())
        self.assertEqual("false", self.find("#live").get_attribute("aria-pressed"))
        self.assertIn("–", self.find("#chosen").text)
        self.act(lambda: self.find("#live").click(), "it is live again", lambda: "to" not in self.query())

    def test_inverting_turns_the_graph_over(self):
        self.open()
        row = lambda: self.browser.execute_async_script("""const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => {
            const canvas = document.getElementById('flame'); const pen = canvas.getContext('2d');
            done([2, canvas.height - 16].map((y) => [...pen.getImageData(canvas.width - 4, y, 1, 1).data].join()));
        }));""")
        top, bottom = row()
        self.find("#invert").click()
        after_top, after_bottom = row()
        self.assertNotEqual(top, bottom)
        self.assertEqual(top, after_bottom)
        self.assertEqual(bottom, after_top)
        self.assertEqual("1", self.query()["invert"])

    def test_a_deep_link_restores_what_was_looked_at(self):
        focus = ",".join(json.dumps(name) for name in [API, "java", "start_thread"])
        self.open(f"?container={quote(API)}&kind=wall&from=-15m&q=tcp&invert=1&focus={quote(focus)}")
        self.assertEqual("true", self.find(f'#containers button[data-name="{API}"]').get_attribute("aria-pressed"))
        self.assertEqual("true", self.find('#kinds button[value="wall"]').get_attribute("aria-pressed"))
        self.assertEqual("true", self.find('#spans button[value="-15m"]').get_attribute("aria-pressed"))
        self.assertEqual("true", self.find("#invert").get_attribute("aria-pressed"))
        self.assertEqual("tcp", self.find("#search").get_attribute("value"))
        self.assertEqual("start_thread", self.texts("#crumbs button")[-1])

    def test_a_link_with_nonsense_in_it_still_opens(self):
        self.open("?kind=nonsense&view=nonsense&focus=%5B%7B&from=-5m&q=%2F(%2F")
        self.assertEqual("true", self.find("#tab-flame").get_attribute("aria-selected"))
        self.assertTrue(self.texts("#hot tbody tr"))

    def test_system_calls_have_their_distribution_and_sort(self):
        self.open("?view=syscalls")
        self.assertEqual("epoll_wait", self.texts("#syscalls tbody td:first-child")[0])
        self.assertTrue(self.browser.find_elements(By.CSS_SELECTOR, "#syscalls svg.dist rect"))
        self.find('[data-sort="errors"]').click()
        self.assertEqual("openat", self.texts("#syscalls tbody td:first-child")[0])
        self.assertEqual("descending", self.find("#syscalls th[aria-sort]").get_attribute("aria-sort"))
        self.emulate("dark")
        self.screenshot("syscalls-dark")

    def test_a_target_leads_to_its_function(self):
        self.open("?view=targets")
        self.assertIn("≤ 0.60 cores", self.find(".card").text)
        self.screenshot("targets")
        self.act(lambda: self.find(".card button").click(), "the flamegraph", lambda: self.query().get("q") == "parse_json")
        self.assertEqual(API, self.query()["container"])
        self.act(lambda: self.browser.get(f"{self.address}/?view=targets&container=host"), "no target", lambda: "No target" in self.find("#targets-panel").text)

    def test_it_is_legible_on_a_phone_and_in_the_dark(self):
        self.emulate("dark")
        self.size(390, 844)
        for view in ("flame", "time", "syscalls", "targets"):
            self.open(f"?view={view}")
            self.assert_fits()
            self.screenshot(f"phone-{view}")
        ground = self.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        self.assertLess(max(int(part) for part in ground[4:-1].split(",")), 60)

    def test_an_error_of_the_daemon_is_said(self):
        self.open("?container=gone")
        self.assertIn("no container matches `gone`", self.find("#problem").text)


class WithTheDaemon(Page):
    @classmethod
    def serve(cls):
        address = os.environ.get("PROFILER_URL")
        if not address:
            raise unittest.SkipTest("PROFILER_URL names no daemon")
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                urlopen(f"{address}/readyz", timeout=5).read()
                return address
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"{address}/readyz never said ready")

    def test_each_view_draws_what_it_answers_without_complaint(self):
        for view, selector in (("flame", "#hot tbody tr"), ("time", "#time-panel tbody tr"), ("syscalls", "#syscalls tbody tr"), ("targets", "#targets-panel > *")):
            with self.subTest(view):
                self.open(f"?view={view}")
                self.until(lambda: self.texts(selector), f"{view} shows something")
                self.assertFalse(self.find("#problem").is_displayed(), self.find("#problem").text)
                self.screenshot(view)
                self.assert_no_complaints()
        self.assertIn("of a core", self.find("#coverage").text)

    def test_its_hottest_container_can_be_chosen_searched_and_compared(self):
        self.open("?from=-1m")
        first = self.browser.find_elements(By.CSS_SELECTOR, "#containers button")[1]
        name = first.get_attribute("data-name")
        self.act(first.click, "it is chosen", lambda: self.query().get("container") == name)
        self.assertGreater(len(self.colours()), 3)
        function = self.texts("#hot tbody td:first-child")[0]
        self.find("#search").send_keys(function)
        self.until(lambda: "matched" in self.find("#matched").text, "it is found")
        self.assertNotEqual("0 % matched", self.find("#matched").text)
        self.open("?from=-1m&base_from=-1m")
        self.assertTrue(self.find("#diff-note").is_displayed())
        self.assert_no_complaints()


if __name__ == "__main__":
    unittest.main()
