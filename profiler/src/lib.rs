//! Per-container on-CPU, off-CPU and syscall profiles of a Linux host, measured with eBPF.
//!
//! Data goes one way through the rooms: [`kernel`] drains raw windows; [`process`], [`symbol`] and [`container`] give
//! them names; [`collect`] runs a collection and fills a [`profile`]; [`target`] analyses it; [`diff`] compares two;
//! [`output`] writes it; [`daemon`] keeps and serves it; [`cli`] is the thin front; `memory` tells the allocator what all of them want of it; [`inherited`] knows what
//! the process was started with. No room reaches back.

pub mod cli;
pub mod collect;
pub mod container;
pub mod daemon;
pub mod diff;
pub mod inherited;
pub mod kernel;
mod memory;
pub mod output;
pub mod process;
pub mod profile;
pub mod quantity;
pub mod symbol;
pub mod target;
pub mod terminal;
