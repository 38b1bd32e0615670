//! A profile in; flamegraph SVG, folded stacks, pprof, speedscope, JSON and reports out.
