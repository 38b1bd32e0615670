//! File offsets and kernel addresses in, function names out.
