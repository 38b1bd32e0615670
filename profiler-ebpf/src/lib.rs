//! The contract between kernel programs and userspace: keys, values and constants that both sides must agree on, and
//! nothing else.

#![no_std]

pub mod histogram;
