//! Everything a developer types: one file a command.

fn main() {}
