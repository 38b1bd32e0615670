//! What library code does for its caller. In: a function and its module. Out: allocation, serialization, …

/// What library, runtime or kernel code does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Getting and returning memory.
    Allocation,
    /// JSON, protobuf and the like, both ways.
    Serialization,
    /// Compression, both ways.
    Compression,
    /// Digests, ciphers, handshakes.
    HashingAndTls,
    /// Regular expressions.
    Regex,
    /// Formatting and writing logs.
    Logging,
    /// Garbage collection.
    GarbageCollection,
    /// Moving and clearing bytes.
    Copying,
}

impl Work {
    /// In words, as part of a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocation => "allocation",
            Self::Serialization => "serialization",
            Self::Compression => "compression",
            Self::HashingAndTls => "hashing and TLS",
            Self::Regex => "regular expressions",
            Self::Logging => "logging",
            Self::GarbageCollection => "garbage collection",
            Self::Copying => "copying",
        }
    }

    /// What makes less of it, in words.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Allocation => "allocate less: use buffers again, size collections in advance",
            Self::Serialization => "encode once and keep the bytes, encode fewer fields, or use a faster encoder",
            Self::Compression => "compress once and keep the result, use a lower level, or skip small and packed data",
            Self::HashingAndTls => "keep connections and sessions open, hash once, or use a cheaper digest",
            Self::Regex => "compile patterns once, anchor them, or replace them by plain string operations",
            Self::Logging => "log less in the hot path, or format lazily",
            Self::GarbageCollection => "allocate less garbage, or give the heap more room",
            Self::Copying => "pass references instead of copies",
        }
    }
}

/// Functions of the C library that appear in statically linked programs, and tell what they do by their name.
pub const C_LIBRARY: [&str; 34] = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "cfree",
    "memalign",
    "posix_memalign",
    "memcpy",
    "memmove",
    "memset",
    "memcmp",
    "memchr",
    "strlen",
    "strcmp",
    "strncmp",
    "strcpy",
    "strchr",
    "strstr",
    "strtol",
    "qsort",
    "snprintf",
    "vsnprintf",
    "printf",
    "fprintf",
    "fwrite",
    "fread",
    "read",
    "write",
    "recv",
    "send",
    "open",
    "close",
    "stat",
    "syscall",
];

const ALLOCATION: [&str; 26] = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "cfree",
    "_int_malloc",
    "_int_free",
    "malloc_consolidate",
    "sysmalloc",
    "systrim",
    "unlink_chunk",
    "tcache_",
    "je_",
    "tc_",
    "mi_",
    "operator new",
    "operator delete",
    "__rust_alloc",
    "__rust_dealloc",
    "__rust_realloc",
    "__rdl_",
    "alloc::alloc::",
    "alloc::raw_vec::",
    "runtime.mallocgc",
    "runtime.newobject",
    "runtime.growslice",
];

const COLLECTION: [&str; 16] = [
    "runtime.gc",
    "runtime.scan",
    "runtime.greyobject",
    "runtime.markroot",
    "runtime.sweep",
    "runtime.bgsweep",
    "runtime.(*gcWork)",
    "runtime.(*sweep",
    "runtime.wbBuf",
    "G1",
    "PSScavenge",
    "ParallelScavenge",
    "gc_collect",
    "v8::internal::Scavenger",
    "v8::internal::MarkCompact",
    "v8::internal::Heap::CollectGarbage",
];

const COPYING: [&str; 12] = [
    "memcpy",
    "memmove",
    "memset",
    "__memcpy",
    "__memmove",
    "__memset",
    "__mempcpy",
    "bcopy",
    "__rep_movs",
    "runtime.memmove",
    "runtime.memclr",
    "_copy_",
];

/// Parts of names, of functions or modules, that tell the other kinds of work.
const TOPICS: [(Work, &[&str]); 5] = [
    (
        Work::Serialization,
        &[
            "json",
            "Json",
            "JSON",
            "protobuf",
            "proto.",
            "prost::",
            "msgpack",
            "bincode",
            "serde",
            "yaml",
            "pickle",
            "encoding/xml",
            "encoding/gob",
            "fastjson",
            "jackson",
            "avro",
            "cbor",
        ],
    ),
    (
        Work::Compression,
        &[
            "deflate",
            "inflate",
            "zlib",
            "libz.",
            "gzip",
            "zstd",
            "ZSTD",
            "brotli",
            "Brotli",
            "lz4",
            "LZ4",
            "snappy",
            "lzma",
            "bzip2",
            "BZ2_",
            "compress/",
            "miniz",
            "flate2",
        ],
    ),
    (
        Work::HashingAndTls,
        &[
            "sha1",
            "sha256",
            "sha512",
            "SHA1",
            "SHA256",
            "SHA512",
            "md5",
            "MD5",
            "libcrypto",
            "libssl",
            "crypto/",
            "AES",
            "aes_",
            "rustls",
            "ring::",
            "bcrypt",
            "argon2",
            "blake",
            "siphash",
            "crc32",
            "_hashlib",
            "gnutls",
        ],
    ),
    (Work::Regex, &["regex", "Regex", "regexp", "pcre", "_sre", "sre_", "RegExp", "re2::", "java.util.regex", "onig"]),
    (
        Work::Logging,
        &["log::", "logging", "Logger", "slog", "zap.", "log4", "logback", "syslog", "spdlog", "zerolog", "tracing::"],
    ),
];

/// What a function of a library or runtime does, where its name tells.
pub fn of_user(function: &str, module: &str) -> Option<Work> {
    let name = function.trim_start_matches("__GI_").trim_start_matches("__libc_");
    if COLLECTION.iter().any(|start| name.starts_with(start)) {
        return Some(Work::GarbageCollection);
    }
    if ALLOCATION.iter().any(|start| name.starts_with(start))
        || module.contains("jemalloc")
        || module.contains("tcmalloc")
    {
        return Some(Work::Allocation);
    }
    if COPYING.iter().any(|start| name.starts_with(start)) {
        return Some(Work::Copying);
    }
    let tells = |part: &&str| name.contains(*part) || module.contains(*part);
    TOPICS.iter().find(|(_, parts)| parts.iter().any(tells)).map(|(work, _)| *work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_library_code_does() {
        for (function, module, work) in [
            ("_int_malloc", "libc.so.6", Work::Allocation),
            ("encoding/json.Marshal", "shop", Work::Serialization),
            ("deflate", "libz.so.1", Work::Compression),
            ("sha256_block_data_order", "libcrypto.so.3", Work::HashingAndTls),
            ("pcre2_match_8", "libpcre2-8.so.0", Work::Regex),
            ("runtime.gcDrain", "shop", Work::GarbageCollection),
            ("__memmove_avx_unaligned_erms", "libc.so.6", Work::Copying),
        ] {
            assert_eq!(of_user(function, module), Some(work), "{function}");
        }
        assert_eq!(of_user("qsort_r", "libc.so.6"), None);
    }
}
