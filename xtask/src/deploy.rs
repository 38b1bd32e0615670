//! `cargo xtask deploy-check`: what is in deploy/ in, the verdict of the validators that its users would meet out.
//!
//! kubernetes-validate for manifests, Helm's own engine for the chart, promtool for rules and scrape configurations, hadolint,
//! systemd-analyze. The tests in deploy/check run each of them on what is shipped, and on broken copies that it must refuse.

use anyhow::Result;
use clap::Args;

use crate::validators;

/// Checks Dockerfile, manifest, chart, rules, dashboards, unit and scrape examples.
#[derive(Args)]
pub struct DeployCheck {
    /// Only checks whose name contains this.
    filter: Option<String>,
}

impl DeployCheck {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        validators::prepare()?;
        validators::run_tests("check what is deployed", "deploy/check", self.filter.as_deref(), &[])
    }
}

/// All of it, as a step of `cargo xtask test`.
pub fn check() -> Result<()> {
    DeployCheck { filter: None }.run()
}
