//! `profiler containers`: the containers on this host as the profiler sees them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};

use crate::container::runtime::{labels::KeptLabels, parse_socket};
use crate::container::{ContainerKey, ContainerResolver, Description, ResolverOptions};
use crate::terminal::{printable, printable_json};

/// How long to wait for the runtimes.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Where containers and their names are found.
#[derive(Debug, Clone, Default, Args)]
pub struct ContainerSources {
    /// A container runtime's socket, besides the well-known ones (Docker, Podman or CRI); may be repeated
    #[arg(
        long = "runtime-socket",
        value_name = "unix:///PATH",
        env = "PROFILER_RUNTIME_SOCKET",
        value_delimiter = ','
    )]
    pub runtime_sockets: Vec<String>,

    /// Where the host's cgroup hierarchy is mounted, if not where this process's mount table says
    #[arg(long, value_name = "PATH", env = "PROFILER_CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,

    /// A label of containers to keep besides the well-known ones, by name or glob; may be repeated
    #[arg(long = "container-labels", value_name = "LABEL", env = "PROFILER_CONTAINER_LABELS", value_delimiter = ',')]
    pub labels: Vec<String>,
}

impl ContainerSources {
    /// The resolver's options.
    pub fn options(&self) -> anyhow::Result<ResolverOptions> {
        let sockets = self.runtime_sockets.iter().map(|text| parse_socket(text)).collect::<Result<_, _>>()?;
        let labels = KeptLabels::parse(&self.labels)?;
        Ok(ResolverOptions { cgroup_root: self.cgroup_root.clone(), sockets, labels, ..ResolverOptions::default() })
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// A table.
    #[default]
    Text,
    /// An array of objects with the fields of the report's `containers`.
    Json,
}

/// Arguments of `profiler containers`.
#[derive(Debug, Clone, Default, Args)]
pub struct ContainersArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t, env = "PROFILER_FORMAT")]
    pub format: ListFormat,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the help text of the whole group")]
    pub sources: ContainerSources,
}

/// Prints what runs here: warnings to standard error, the list to standard output.
pub fn run(args: &ContainersArgs) -> anyhow::Result<()> {
    let mut resolver = ContainerResolver::start(args.sources.options()?)?;
    resolver.finish(PATIENCE);
    let mut found = resolver.describe_all();
    found.retain(|description| resolver.is_populated(&description.key));
    for warning in resolver.take_warnings() {
        super::print_warning(&warning);
    }
    let text = match args.format {
        ListFormat::Text => table(&found),
        ListFormat::Json => printable_json(&serde_json::to_string_pretty(&found)?).into_owned() + "\n",
    };
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write the list to standard output"),
    }
}

/// Containers first, then units, the host last.
fn table(found: &[Description]) -> String {
    let mut rows: Vec<&Description> = found.iter().collect();
    rows.sort_by_key(|row| match row.key {
        ContainerKey::Container(_) | ContainerKey::Delegated(_) => 0,
        ContainerKey::Unit(_) => 1,
        ContainerKey::Host => 2,
    });
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["NAME", "ID", "RUNTIME", "IMAGE", "CPU LIMIT", "CGROUP"]);
    for row in rows {
        let id = if row.id.is_empty() { "-" } else { row.short_id() };
        let limit = row.cpu_limit_cores.map_or_else(|| "-".to_owned(), |cores| format!("{cores:.2}"));
        let image = row.image.as_deref().unwrap_or("-");
        table.add_row([&row.name, id, row.runtime, image, &limit, &row.cgroup].map(printable));
    }
    // The table pads its last column, too.
    table.to_string().lines().flat_map(|line| [line.trim(), "\n"]).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: ContainersArgs,
    }

    fn description(key: ContainerKey, name: &str, id: &str) -> Description {
        Description {
            key,
            id: id.to_owned(),
            name: name.to_owned(),
            image: (!id.is_empty()).then(|| "box:1".to_owned()),
            runtime: if id.is_empty() { "host" } else { "docker" },
            pod: None,
            namespace: None,
            container: Some(name.to_owned()),
            labels: BTreeMap::new(),
            cgroup: format!("/{name}"),
            cpu_limit_cores: (!id.is_empty()).then_some(0.5),
            by_user: false,
        }
    }

    #[test]
    fn the_table_lists_containers_before_units_and_the_host() {
        let found = [
            description(ContainerKey::Host, "host", ""),
            description(ContainerKey::Unit(Arc::from("/a.service")), "a.service", ""),
            description(ContainerKey::Container(Arc::from("x")), "web", "0123456789abcdef"),
        ];
        let text = table(&found);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["NAME", "ID", "RUNTIME", "IMAGE", "CPU", "LIMIT", "CGROUP"]);
        assert_eq!(words[1], ["web", "0123456789ab", "docker", "box:1", "0.50", "/web"]);
        assert_eq!(words[2], ["a.service", "-", "host", "-", "-", "/a.service"]);
        assert_eq!(words[3][0], "host");
    }

    #[test]
    fn a_name_that_would_paint_the_terminal_or_begin_a_line_is_shown_as_what_it_is() {
        let mut one = description(ContainerKey::Unit(Arc::from("/x")), "a\x1b]0;title\x07.service\nweb", "");
        one.image = Some("box\u{202e}:1".to_owned());
        one.cgroup = "/x\u{9b}2J".to_owned();
        let text = table(&[one]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(|c| c != '\n' && crate::terminal::is_unprintable(c)), "{text:?}");
        assert!(text.contains("a\\x1b]0;title\\x07.service\\nweb"), "{text}");
    }

    #[test]
    fn json_has_the_names_of_the_report() {
        let found = [description(ContainerKey::Container(Arc::from("x")), "web", "0123456789abcdef")];
        let json = serde_json::to_value(&found[..]).unwrap();
        let keys: Vec<&String> = json[0].as_object().unwrap().keys().collect();
        for key in ["id", "name", "image", "runtime", "pod", "namespace", "cgroup", "cpu_limit", "labels", "container"]
        {
            assert!(keys.iter().any(|found| *found == key), "{key} is missing in {keys:?}");
        }
        assert_eq!(json[0]["cpu_limit"], 0.5);
    }

    #[test]
    fn sockets_are_given_any_number_of_times_and_checked() {
        let arguments = ["x", "--runtime-socket", "unix:///a.sock", "--runtime-socket", "/b.sock", "--format", "json"];
        let args = Program::parse_from(arguments).args;
        assert_eq!(args.format, ListFormat::Json);
        assert_eq!(args.sources.options().unwrap().sockets.len(), 2);
        let args = Program::parse_from(["x", "--runtime-socket", "tcp://host"]).args;
        assert!(args.sources.options().unwrap_err().to_string().contains("tcp://host"));
        let nowhere = Program::parse_from(["x", "--cgroup-root", "/nowhere"]).args;
        assert!(run(&nowhere).unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn this_host_can_be_listed() {
        run(&ContainersArgs { format: ListFormat::Json, ..ContainersArgs::default() }).unwrap();
    }
}
