//! What runs: processes and their mappings, followed from exec, mmap and exit events. Addresses in, file offsets out.
