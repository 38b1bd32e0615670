//! Runs a collection: raw windows from the kernel in, a resolved profile out.
