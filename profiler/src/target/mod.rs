//! The analysis: a profile in; ranked optimization targets out.
