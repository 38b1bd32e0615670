//! The kinds of stacks, for formats that hold one at a time.

use clap::ValueEnum;

use super::OutputError;
use crate::profile::Profile;

/// Which stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Kind {
    /// On-CPU samples.
    Cpu,
    /// Time off the CPU, in microseconds.
    #[value(name = "offcpu")]
    OffCpu,
    /// Both together, in microseconds: what a clock on the wall would show.
    Wall,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::OffCpu, Self::Wall];

    /// As headings say it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Cpu => "on-CPU",
            Self::OffCpu => "off-CPU",
            Self::Wall => "wall-clock",
        }
    }

    /// What the numbers count.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "samples",
            Self::OffCpu | Self::Wall => "µs",
        }
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Cpu => "record with --cpu, or use --kind offcpu",
            Self::OffCpu => "record with --offcpu, or use --kind cpu",
            Self::Wall => "record with --cpu --offcpu",
        }
    }

    /// Whether stacks of this kind were recorded.
    pub fn is_recorded(self, profile: &Profile) -> bool {
        let cpu = profile.settings.on_cpu || !profile.on_cpu.is_empty();
        let off_cpu = profile.settings.off_cpu || !profile.off_cpu.is_empty();
        match self {
            Self::Cpu => cpu,
            Self::OffCpu => off_cpu,
            Self::Wall => cpu && off_cpu,
        }
    }

    /// The kind asked for, if it was recorded; without a wish on-CPU where it was recorded, else off-CPU.
    pub fn choose(wish: Option<Self>, profile: &Profile) -> Result<Self, OutputError> {
        let default =
            if Self::OffCpu.is_recorded(profile) && !Self::Cpu.is_recorded(profile) { Self::OffCpu } else { Self::Cpu };
        let kind = wish.unwrap_or(default);
        if kind.is_recorded(profile) { Ok(kind) } else { Err(OutputError::NotRecorded { kind }) }
    }
}
