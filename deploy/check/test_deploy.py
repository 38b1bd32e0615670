"""Every file that is shipped passes its validator; and every validator refuses a broken copy, so that passing means something."""

import shutil
import tempfile
import unittest
from pathlib import Path

import helm_python as helm
import yaml

import validators

DEPLOY = Path(__file__).resolve().parents[1]
EVERYTHING = yaml.safe_load((DEPLOY / "helm/profiler/ci/everything-values.yaml").read_text())


class WhatIsShipped(unittest.TestCase):
    def assert_clean(self, findings):
        self.assertEqual([], findings)

    def test_the_manifest_is_valid_and_asks_for_no_more_than_it_needs(self):
        self.assert_clean(validators.manifest(DEPLOY))

    def test_the_chart_renders_valid_objects_from_its_defaults(self):
        self.assert_clean(validators.chart(DEPLOY))

    def test_the_chart_renders_valid_objects_with_every_switch_on(self):
        self.assert_clean(validators.chart(DEPLOY, EVERYTHING))

    def test_the_chart_with_every_switch_on_renders_every_template(self):
        templates = {path.name for path in (DEPLOY / "helm/profiler/templates").glob("*.yaml")}
        self.assertEqual(templates, {Path(name).name for name in validators.render(DEPLOY, EVERYTHING)})

    def test_manifest_and_chart_give_the_profiler_the_same_rights(self):
        plain = next(document for document in yaml.safe_load_all((DEPLOY / "kubernetes/profiler.yaml").read_text()) if document["kind"] == "DaemonSet")
        rendered = yaml.safe_load(next(text for name, text in validators.render(DEPLOY, {}).items() if name.endswith("daemonset.yaml")))
        rights = lambda document: document["spec"]["template"]["spec"]["containers"][0]["securityContext"]
        self.assertEqual(rights(plain), rights(rendered))

    def test_rules_are_valid_and_each_is_seen_firing(self):
        self.assert_clean(validators.rules(DEPLOY))

    def test_dashboards_ask_for_metrics_that_exist(self):
        self.assert_clean(validators.dashboards(DEPLOY))

    def test_the_dockerfile_is_clean_and_ends_without_a_base(self):
        self.assert_clean(validators.dockerfile(DEPLOY))

    def test_the_unit_is_valid_and_confined(self):
        self.assert_clean(validators.unit(DEPLOY))

    def test_scrape_examples_are_valid(self):
        self.assert_clean(validators.scrapes(DEPLOY))


class BrokenCopies(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.deploy = Path(self.directory.name) / "deploy"
        shutil.copytree(DEPLOY, self.deploy, ignore=shutil.ignore_patterns("__pycache__"))

    def breaks(self, file, old, new, validator, word, *more):
        path = self.deploy / file
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new, 1))
        findings = validator(self.deploy, *more)
        self.assertTrue(any(word in finding for finding in findings), findings)

    def test_a_misspelt_field_of_the_manifest_is_refused(self):
        self.breaks("kubernetes/profiler.yaml", "hostPID:", "hostPid:", validators.manifest, "hostPid")

    def test_a_privileged_manifest_is_refused(self):
        self.breaks("kubernetes/profiler.yaml", "privileged: false", "privileged: true", validators.manifest, "privileged")

    def test_a_capability_too_many_is_refused(self):
        self.breaks("kubernetes/profiler.yaml", "- SYSLOG", "- SYS_ADMIN", validators.manifest, "SYS_ADMIN")

    def test_a_writable_view_of_the_host_is_refused(self):
        self.breaks("helm/profiler/templates/daemonset.yaml", "readOnly: true", "readOnly: false", validators.chart, "writable")

    def test_a_template_that_does_not_render_is_refused(self):
        self.breaks("helm/profiler/templates/daemonset.yaml", "{{- toYaml .Values.resources", "{{- toYamll .Values.resources", validators.chart, "helm")

    def test_a_rendered_object_with_a_wrong_type_is_refused(self):
        self.breaks("helm/profiler/templates/daemonset.yaml", "failureThreshold: 6", "failureThreshold: six", validators.chart, "failureThreshold")

    def test_a_monitor_with_an_unknown_field_is_refused(self):
        self.breaks("helm/profiler/templates/_helpers.tpl", "scrapeTimeout:", "timeout:", validators.chart, "PodMonitor", EVERYTHING)

    def test_values_that_the_schema_does_not_allow_are_refused(self):
        for wrong in ({"listen": {"port": 99999}}, {"capabilities": ["CAP_BPF", "CAP_PERFMON"]}, {"tolerationss": []}, {"image": {"pullPolicy": "Sometimes"}}):
            with self.subTest(wrong), self.assertRaises(helm.HelmError):
                validators.render(DEPLOY, wrong)

    def test_an_expression_that_does_not_parse_is_refused(self):
        self.breaks("helm/profiler/files/rules/profiler-alerts.yaml", 'up{job="profiler"} == 0', 'up{job="profiler"} === 0', validators.rules, "promtool")

    def test_an_alert_that_no_longer_fires_is_noticed(self):
        self.breaks("helm/profiler/files/rules/profiler-alerts.yaml", "> 0.9", "> 9", validators.rules, "FAILED")

    def test_an_alert_without_a_test_is_noticed(self):
        self.breaks("check/rules/findings.yaml", "alertname: HostStolenTime", "alertname: ContainerThrottled", validators.rules, "no test fires HostStolenTime")

    def test_a_metric_that_does_not_exist_is_noticed_in_a_rule(self):
        self.breaks("helm/profiler/files/rules/profiler-alerts.yaml", "profiler_map_entries", "profiler_map_items", validators.rules, "unknown metric profiler_map_items")

    def test_a_label_that_does_not_exist_is_noticed_in_a_dashboard(self):
        self.breaks("helm/profiler/files/dashboards/profiler-containers.json", 'state=~', 'status=~', validators.dashboards, "no label status")

    def test_a_dashboard_that_asks_nonsense_is_refused(self):
        self.breaks("helm/profiler/files/dashboards/profiler-health.json", "sum by (reason) (rate(", "sum by (reason) rate((", validators.dashboards, "promtool")

    def test_a_dashboard_that_is_no_json_is_refused(self):
        self.breaks("helm/profiler/files/dashboards/profiler-health.json", '"panels"', 'panels', validators.dashboards, "profiler-health.json")

    def test_a_careless_dockerfile_is_refused(self):
        self.breaks("Dockerfile", "FROM rust:1.95.0-bookworm", "FROM rust:latest", validators.dockerfile, "DL3007")

    def test_an_image_with_a_base_is_refused(self):
        self.breaks("Dockerfile", "FROM scratch", "FROM debian:12", validators.dockerfile, "base")

    def test_a_unit_with_an_unknown_setting_is_refused(self):
        self.breaks("systemd/profiler.service", "Type=notify", "Type=notifyy", validators.unit, "notifyy")

    def test_a_unit_that_keeps_all_rights_is_refused(self):
        self.breaks("systemd/profiler.service", "NoNewPrivileges=yes", "CapabilityBoundingSet=~", validators.unit, "Overall exposure level")

    def test_a_wrong_scrape_configuration_is_refused(self):
        self.breaks("scrape/prometheus.yaml", "job_name:", "job:", validators.scrapes, "promtool")


if __name__ == "__main__":
    unittest.main()
