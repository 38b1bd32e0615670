//! Whose code a frame is. In: the function's name, its module, what else is in that module. Out: application, library,
//! runtime, kernel.
//!
//! The application is what the container's owner can change; everything is theirs that is not known to be somebody
//! else's. What is known:
//!
//! - **Modules.** `lib*.so*`, the loader, and C extensions of interpreters are libraries; interpreters and virtual
//!   machines are runtimes.
//! - **Go** binaries hold everything. Packages of the standard library are known by their first path element, which in
//!   any other module path holds a dot or is `main`; `runtime` is the runtime.
//! - **Rust** binaries do as well. A function belongs to the crate its path begins with, or whose type implements the
//!   trait; a crate named like the binary is the application, well-known crates are libraries.
//! - **Python, Node, Java** functions have names made at run time, which tell their file or package.
//! - **C++** `std::`, and functions of the C library that are linked statically, are libraries.

use super::work::C_LIBRARY;
use crate::profile::FrameKind;

/// Whose code a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The owner of the container can change it.
    Application,
    /// Called by the application, written by others.
    Library,
    /// Runs the application: interpreters, schedulers, program entries.
    Runtime,
    /// The kernel.
    Kernel,
    /// Not code: a note in place of frames.
    Note,
}

/// In which language a module was written, as far as its functions tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Language {
    /// C, C++, Rust or anything that needs no more to be known.
    #[default]
    Native,
    /// Go.
    Go,
}

/// First path elements of Go's standard library.
const GO_STANDARD: [&str; 46] = [
    "archive",
    "bufio",
    "bytes",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "internal",
    "io",
    "iter",
    "log",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "slices",
    "sort",
    "strconv",
    "strings",
    "structs",
    "sync",
    "syscall",
    "testing",
    "text",
    "time",
    "unicode",
    "unique",
];

/// Go modules that are libraries wherever they appear.
const GO_LIBRARIES: [&str; 24] = [
    "golang.org/x/",
    "google.golang.org/",
    "go.uber.org/",
    "go.opentelemetry.io/",
    "gopkg.in/",
    "k8s.io/",
    "github.com/bytedance/",
    "github.com/gin-gonic/",
    "github.com/go-redis/",
    "github.com/go-sql-driver/",
    "github.com/goccy/",
    "github.com/golang/",
    "github.com/google/",
    "github.com/gorilla/",
    "github.com/jackc/",
    "github.com/json-iterator/",
    "github.com/klauspost/",
    "github.com/labstack/",
    "github.com/lib/pq",
    "github.com/mattn/",
    "github.com/prometheus/",
    "github.com/redis/",
    "github.com/sirupsen/",
    "github.com/valyala/",
];

/// Rust crates that are libraries wherever they appear.
const RUST_LIBRARIES: [&str; 62] = [
    "ahash",
    "aho_corasick",
    "alloc",
    "anyhow",
    "async_std",
    "axum",
    "backtrace",
    "base64",
    "bincode",
    "bytes",
    "chrono",
    "compiler_builtins",
    "core",
    "crc32fast",
    "crossbeam",
    "crossbeam_channel",
    "crossbeam_deque",
    "crossbeam_epoch",
    "crossbeam_utils",
    "dashmap",
    "env_logger",
    "flate2",
    "futures",
    "futures_channel",
    "futures_util",
    "h2",
    "hashbrown",
    "http",
    "hyper",
    "hyper_util",
    "indexmap",
    "itertools",
    "itoa",
    "log",
    "memchr",
    "miniz_oxide",
    "mio",
    "once_cell",
    "parking_lot",
    "parking_lot_core",
    "prost",
    "rand",
    "rayon",
    "rayon_core",
    "redis",
    "regex",
    "regex_automata",
    "reqwest",
    "ring",
    "rustls",
    "ryu",
    "serde",
    "serde_json",
    "simd_json",
    "smallvec",
    "sqlx",
    "std",
    "tokio",
    "tokio_util",
    "tonic",
    "tracing",
    "zstd",
];

/// What Java packages of the platform and its usual libraries begin with.
const JAVA_LIBRARIES: [&str; 21] = [
    "java.",
    "javax.",
    "jdk.",
    "sun.",
    "com.sun.",
    "kotlin.",
    "kotlinx.",
    "scala.",
    "org.apache.",
    "org.springframework.",
    "org.eclipse.",
    "org.slf4j.",
    "ch.qos.",
    "com.fasterxml.",
    "com.google.",
    "io.netty.",
    "io.vertx.",
    "reactor.",
    "org.hibernate.",
    "org.postgresql.",
    "redis.clients.",
];

/// Programs that run other people's programs.
const RUNTIME_MODULES: [&str; 14] = [
    "python",
    "pypy",
    "libpython",
    "node",
    "nodejs",
    "deno",
    "bun",
    "java",
    "libjvm",
    "ruby",
    "libruby",
    "perl",
    "php",
    "dotnet",
];

/// Whether the module is an interpreter or virtual machine, by the name of its file: `python3.11`, `libjvm.so`.
pub fn is_runtime_module(module: &str) -> bool {
    RUNTIME_MODULES.iter().any(|name| {
        module.strip_prefix(name).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'))
        })
    })
}

/// What comes with every system: the C library and its parts, the loader, the compilers' own runtimes.
const SYSTEM_MODULES: [&str; 14] = [
    "ld-",
    "ld.so",
    "libc.",
    "libc-",
    "libpthread",
    "libm.",
    "libm-",
    "libdl",
    "librt",
    "libgcc_s",
    "libstdc++",
    "libc++",
    "linux-vdso",
    "[vdso]",
];

/// Whether the module comes with every system: nobody chose to have it.
pub fn is_system_module(module: &str) -> bool {
    SYSTEM_MODULES.iter().any(|name| module.starts_with(name))
}

/// Whether the module is a shared library of others.
pub fn is_library_module(module: &str) -> bool {
    let shared = module.rsplit('.').next() == Some("so") || module.contains(".so.");
    shared && (module.starts_with("lib") || module.starts_with("ld-") || module.contains(".cpython-"))
        || module.starts_with("ld-linux")
        || module.starts_with("ld-musl")
        || (shared && module.starts_with('_'))
        || module == "[vdso]"
}

/// Whether a function that only Go binaries have.
pub fn tells_go(function: &str) -> bool {
    matches!(
        function,
        "runtime.goexit"
            | "runtime.main"
            | "runtime.mstart"
            | "runtime.mcall"
            | "runtime.schedule"
            | "runtime.rt0_go"
            | "runtime.systemstack"
            | "runtime.findRunnable"
            | "runtime.futex"
            | "runtime.morestack"
            | "runtime.mallocgc"
    ) || function.starts_with("runtime.goexit.")
}

/// Whose code a function is.
pub fn role(kind: FrameKind, function: &str, module: &str, language: Language) -> Role {
    match kind {
        FrameKind::Kernel => return Role::Kernel,
        FrameKind::Note => return Role::Note,
        FrameKind::Unresolved | FrameKind::User | FrameKind::UserInlined => {}
    }
    if let Some(role) = interpreted(function, module) {
        return role;
    }
    if is_runtime_module(module) {
        return Role::Runtime;
    }
    if is_library_module(module) || module.is_empty() && kind == FrameKind::Unresolved {
        return Role::Library;
    }
    if kind == FrameKind::Unresolved {
        return if module.starts_with('[') { Role::Runtime } else { Role::Application };
    }
    match language {
        Language::Go => go(function),
        Language::Native => native(function, module),
    }
}

/// Names made at run time: `py::handle:/app/server.py`, `JS:*handle /app/server.js:3:1`, `void com.acme.Shop.sell(int)`.
fn interpreted(function: &str, module: &str) -> Option<Role> {
    if let Some(rest) = function.strip_prefix("py::") {
        return Some(by_path(rest.split_once(':').map_or("", |(_, path)| path)));
    }
    for prefix in ["JS:", "LazyCompile:", "Function:", "Eval:", "Script:"] {
        if let Some(rest) = function.strip_prefix(prefix) {
            let path = rest.rsplit_once(' ').map_or("", |(_, path)| path);
            return Some(if path.is_empty() { Role::Runtime } else { by_path(path) });
        }
    }
    if module != "[jit]" {
        return None;
    }
    let runtime = ["Builtin:", "BytecodeHandler:", "Stub:", "Handler:", "RegExp:", "Interpreter", "StubRoutines"];
    if runtime.iter().any(|prefix| function.starts_with(prefix)) || function.contains(" stub") {
        return Some(Role::Runtime);
    }
    let java = java_name(function)?;
    let library = JAVA_LIBRARIES.iter().any(|package| java.starts_with(package));
    Some(if library { Role::Library } else { Role::Application })
}

/// A Java method with its package and dots: of `Lcom/acme/Shop;::sell`, `void com.acme.Shop.sell(int)` and
/// `com.acme.Shop::sell`.
fn java_name(function: &str) -> Option<String> {
    let head = function.split('(').next().unwrap_or(function).trim();
    let name = head.rsplit(' ').next().unwrap_or(head);
    let name = name.strip_prefix('L').filter(|rest| rest.contains(';')).unwrap_or(name);
    let name = name.replace('/', ".").replace(";::", ".").replace("::", ".");
    (name.contains('.') || function.contains("::")).then_some(name)
}

fn by_path(path: &str) -> Role {
    let frozen = path.starts_with("<frozen") || path.starts_with("node:") || path.starts_with("internal/");
    let installed = ["/lib/python", "/site-packages/", "/dist-packages/", "/node_modules/"];
    if frozen || installed.iter().any(|part| path.contains(part)) { Role::Library } else { Role::Application }
}

fn go(function: &str) -> Role {
    if function.starts_with("main.") {
        return Role::Application;
    }
    if function.starts_with("runtime.") || function.starts_with("runtime/") || function.starts_with("_rt0_") {
        return Role::Runtime;
    }
    if function.contains("/vendor/") || GO_LIBRARIES.iter().any(|library| function.starts_with(library)) {
        return Role::Library;
    }
    // The package ends at the first dot behind the last slash; what follows may hold slashes in brackets.
    let first = function.split(['/', '.']).next().unwrap_or(function);
    if !function.contains('.') {
        // Assembly: memclrNoHeapPointers is `runtime.…`, the rest are bodies such as `memeqbody`, `indexbytebody`.
        return Role::Library;
    }
    if GO_STANDARD.binary_search(&first).is_ok() || function.starts_with("type:") || function.starts_with("type..") {
        Role::Library
    } else {
        Role::Application
    }
}

/// Entries of programs and threads, and what runs between them and the application.
const ENTRIES: [&str; 18] = [
    "_start",
    "__libc_start_main",
    "__libc_start_call_main",
    "start_thread",
    "clone",
    "__clone",
    "clone3",
    "__clone3",
    "_init",
    "_fini",
    "_dl_start",
    "_dl_start_user",
    "__restore_rt",
    "lang_start",
    "__rust_begin_short_backtrace",
    "__libc_csu_init",
    "thread_start",
    "frame_dummy",
];

fn native(function: &str, module: &str) -> Role {
    let bare = without_hash(function);
    if ENTRIES.contains(&bare) || bare.starts_with("std::rt::") || bare.contains("__rust_begin_short_backtrace") {
        return Role::Runtime;
    }
    if let Some(owner) = rust_crate(bare) {
        if owner == module.replace('-', "_") {
            return Role::Application;
        }
        if RUST_LIBRARIES.binary_search(&owner).is_ok() || owner == "__gnu_cxx" {
            return Role::Library;
        }
    }
    let cpp = bare.starts_with("operator new") || bare.starts_with("operator delete") || bare.contains(" std::");
    let c = bare.split('@').next().unwrap_or(bare);
    let made = bare.starts_with("__rust_") || bare.starts_with("__rdl_") || bare.starts_with("__rg_");
    if cpp || made || C_LIBRARY.iter().any(|name| is_c(c, name)) {
        return Role::Library;
    }
    Role::Application
}

/// `memcpy` itself, or one of its versions: `__memcpy_avx_unaligned`.
fn is_c(function: &str, name: &str) -> bool {
    function == name
        || function
            .strip_prefix("__")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('_'))
}

/// The crate of a Rust path, or the first namespace of a C++ one: `<&mut app::Queue as core::iter::Iterator>::next` is
/// of `app`.
fn rust_crate(function: &str) -> Option<&str> {
    let path = function.trim_start_matches(['<', '&', '*', '(', '[']);
    let path = path.strip_prefix("mut ").or_else(|| path.strip_prefix("dyn ")).unwrap_or(path);
    let (owner, _) = path.split_once("::")?;
    owner.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(owner)
}

/// The name that owners know: without Rust's hash, and a closure as the function that it is written in.
pub fn plain_name(function: &str) -> &str {
    if let Some(made) = made_name(function) {
        return made;
    }
    let mut name = without_hash(function);
    while let Some(outer) = name.strip_suffix("::{{closure}}").or_else(|| name.strip_suffix("::{closure#0}")) {
        name = outer;
    }
    for part in [".isra.", ".constprop.", ".part.", ".cold", ".lto_priv."] {
        if let Some(at) = name.find(part)
            && at > 0
        {
            name = &name[..at];
        }
    }
    name
}

/// The name in `py::handle:/app/server.py` and `JS:*rulesForCart /app/main.js:12:3`.
fn made_name(function: &str) -> Option<&str> {
    if let Some(rest) = function.strip_prefix("py::") {
        return rest.split(':').next().filter(|name| !name.is_empty());
    }
    let rest = ["JS:", "LazyCompile:", "Function:"].iter().find_map(|prefix| function.strip_prefix(prefix))?;
    let name = rest.trim_start_matches(['*', '~', '^', '+']).split(' ').next()?;
    (!name.is_empty()).then_some(name)
}

fn without_hash(function: &str) -> &str {
    match function.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => name,
        _ => function,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(function: &str, module: &str, language: Language) -> Role {
        role(FrameKind::User, function, module, language)
    }

    #[test]
    fn the_sorted_lists_are_sorted() {
        assert!(GO_STANDARD.is_sorted());
        assert!(RUST_LIBRARIES.is_sorted());
    }

    #[test]
    fn functions_of_libraries_and_runtimes_are_not_the_owners() {
        for (function, module) in [
            ("malloc", "libc.so.6"),
            ("PyObject_Call", "libpython3.11.so.1.0"),
            ("sock_recv", "_socket.cpython-311-x86_64-linux-gnu.so"),
            ("deflate", "libz.so.1"),
            ("memcpy", "static-server"),
            ("__memset_avx2_unaligned", "libc.so.6"),
            ("core::slice::sort::unstable::ipnsort", "column-scan"),
            ("<alloc::vec::Vec<app::Row> as core::clone::Clone>::clone", "app"),
            ("serde_json::ser::to_string::h0123456789abcdef", "app"),
            ("void java.util.HashMap.put(java.lang.Object)", "[jit]"),
            ("py::dumps:/usr/lib/python3.11/json/__init__.py", "[jit]"),
            ("JS:*parse node:url:12:3", "[jit]"),
            ("JS:*next /app/node_modules/express/lib/router.js:12:3", "[jit]"),
        ] {
            let found = user(function, module, Language::Native);
            assert!(matches!(found, Role::Library | Role::Runtime), "{function} in {module} is {found:?}");
        }
        for function in
            ["encoding/json.(*encodeState).marshal", "runtime.mallocgc", "net/http.(*conn).serve", "sort.Sort"]
        {
            assert_ne!(user(function, "shop", Language::Go), Role::Application, "{function}");
        }
    }

    #[test]
    fn functions_of_the_application_are_the_owners() {
        for (function, module) in [
            ("find_country", "geo-lookup"),
            ("column_scan::sum_mapped", "column-scan"),
            ("<&mut column_scan::Rows as core::iter::Iterator>::next", "column-scan"),
            ("shop::pricing::rule", "server"),
            ("void com.acme.Shop.sell(int)", "[jit]"),
            ("Lcom/acme/Shop;::sell", "[jit]"),
            ("py::handle:/app/server.py", "[jit]"),
            ("JS:*rulesForCart /app/main.js:12:3", "[jit]"),
            ("sort_orders", "batch"),
            ("main", "batch"),
        ] {
            assert_eq!(user(function, module, Language::Native), Role::Application, "{function} in {module}");
        }
        for function in
            ["main.renderCatalogue", "github.com/acme/shop/orders.(*Store).Put", "planted/support/meter.New"]
        {
            assert_eq!(user(function, "shop", Language::Go), Role::Application, "{function}");
        }
        assert_eq!(role(FrameKind::Unresolved, "[app+0x12]", "app", Language::Native), Role::Application);
        assert_eq!(role(FrameKind::Unresolved, "[node+0x12]", "node", Language::Native), Role::Runtime);
    }

    #[test]
    fn a_closure_goes_by_the_name_of_its_function() {
        assert_eq!(plain_name("app::serve::{{closure}}::{{closure}}::h0123456789abcdef"), "app::serve");
        assert_eq!(plain_name("decode.constprop.0"), "decode");
        assert_eq!(plain_name("main.main.func1"), "main.main.func1");
        assert_eq!(plain_name("JS:*rulesForCart /app/main.js:12:3"), "rulesForCart");
        assert_eq!(plain_name("py::handle:/app/server.py"), "handle");
    }
}
