//! Arguments that the verbs on a recording share.

use std::path::{Path, PathBuf};

use crate::output::{Format, OutputError, destination};
use crate::profile::Selection;

/// The command line makes no sense; the exit status is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(pub String);

/// Whether the user has to change the command line.
pub fn is_wrong_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<WrongUsage>() || matches!(cause.downcast_ref(), Some(OutputError::UnknownExtension { .. }))
    })
}

/// Which recording, and which of its containers.
#[derive(Debug, Clone, clap::Args)]
pub struct RecordingArgs {
    /// The recording; `-` reads standard input
    #[arg(value_name = "RECORDING", env = "PROFILER_RECORDING")]
    pub recording: PathBuf,
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Which containers.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SelectionArgs {
    /// Only containers with this name, id prefix or glob; may be repeated
    #[arg(long, value_name = "PATTERN", env = "PROFILER_CONTAINER", value_delimiter = ',')]
    pub container: Vec<String>,
    /// Only containers of pods with this name or glob; may be repeated
    #[arg(long, value_name = "PATTERN", env = "PROFILER_POD", value_delimiter = ',')]
    pub pod: Vec<String>,
    /// Only containers in this Kubernetes namespace; may be repeated
    #[arg(long, value_name = "PATTERN", env = "PROFILER_NAMESPACE", value_delimiter = ',')]
    pub namespace: Vec<String>,
}

impl From<SelectionArgs> for Selection {
    fn from(args: SelectionArgs) -> Self {
        Self { containers: args.container, pods: args.pod, namespaces: args.namespace }
    }
}

/// An error if `output` is the recording itself, which it would replace, or a terminal that could not show `format`.
pub fn refuse_output(recording: &Path, format: Format, output: &Path) -> anyhow::Result<()> {
    let same = matches!((recording.canonicalize(), output.canonicalize()), (Ok(a), Ok(b)) if a == b && a.is_file());
    if same {
        let text = format!("the output {} is the recording itself; name another with -o", output.display());
        return Err(WrongUsage(text).into());
    }
    refuse_terminal(format, output)
}

/// An error if `output` is a terminal and `format` nothing that it could show.
pub fn refuse_terminal(format: Format, output: &Path) -> anyhow::Result<()> {
    if !format.is_readable() && destination::is_terminal(output) {
        let extension = format.extension();
        let text = format!("{extension} output is not for a terminal; name a file with -o profile{extension}");
        return Err(WrongUsage(text).into());
    }
    Ok(())
}
