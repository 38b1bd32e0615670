//! Workloads with known truth.
