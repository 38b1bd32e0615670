//! Kernel programs in, raw windows out: load, attach, drain. The only room that knows aya.
